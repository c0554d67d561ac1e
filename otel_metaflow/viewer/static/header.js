// The head of the page.

function drawHeader(run) {
  const resource = run.resource || {};
  const facts = [
    ["took", seconds(run.durationSeconds)],
    ["started", clock(run.startTimeUnixNano)],
    ["by", resource["user.name"]],
    ["on", [resource["host.name"], resource["metaflow.orchestrator.name"]].filter(Boolean).join(", ")],
    ["environment", resource["deployment.environment.name"]],
    ["code version", resource["service.version"]],
    ["project", [resource["metaflow.project.name"], resource["metaflow.branch.name"]].filter(Boolean).join(" / ")],
    ["Metaflow", resource["metaflow.version"]],
    ["Python", resource["process.runtime.version"]],
    ["resumes", run.origin],
    ["triggered by", (run.triggers || []).join(", ")],
  ];
  const about = make("dl", "about");
  for (const [name, value] of facts) {
    if (value) about.append(make("div", "", make("dt", "", name), make("dd", "", String(value))));
  }
  about.append(make("div", "", make("dt", "", "trace"), make("dd", "", traceLink(run))));
  const theme = button("dark / light", toggleTheme, "theme");
  theme.title = "t";
  $("header").append(
    make("div", "top", make("h1", "", run.flow, make("small", "", ` / ${run.run}`)), pill(run.state), make("span", "end", theme)),
    about,
  );
  if (run.state === "running") {
    const at = clock(run.drawnTimeUnixNano);
    $("header").append(make("p", "note", `Still running; shown as of ${at}.`));
  }
  $("footer").append(`Drawn ${clock(run.drawnTimeUnixNano)} by otel-metaflow ${run.version}. Keys: arrows and Enter among the `
    + "attempts, f first failed attempt, / search the log, w wrap its lines, t dark or light.");
}

function traceLink(run) {
  if (!run.traceUrl || !/^https?:\/\//.test(run.traceUrl)) return run.traceId;
  const link = make("a", "", run.traceId);
  link.href = run.traceUrl;
  link.rel = "noopener noreferrer";
  link.target = "_blank";
  return link;
}

const pill = (state) => make("span", `pill ${state}`, state);

function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
}

function toggleTheme() {
  setTheme(document.documentElement.dataset.theme !== "dark");
}
