"""User code that runs while the interpreter is taken down prints and logs as it does without us."""

from __future__ import annotations

from pathlib import Path

from running import Place, seen

FLOW = """
    import atexit, functools, gc, logging, os, sys, threading, weakref
    import helper  # before anything of ours, so that it is taken down after it
    from metaflow import FlowSpec, step

    class Late:
        def __init__(self, name, act=print):
            self.name, self.act = name, act
        def __del__(self):
            self.act("late: " + self.name)

    class LateFlow(FlowSpec):
        {steps}
        @step
        def end(self):
            pass

    if __name__ == "__main__":
        LateFlow()
    """
STEP = """
        @step
        def {name}(self):
            keep = vars(helper)
            {body}
            self.next(self.{following})
    """
LOG = "logging.basicConfig(stream=sys.stdout, force=True)"
CYCLE = "one, two = Late('first of a cycle'), Late('second of a cycle'); one.other, two.other = two, one"
SHAPES = {
    "a global": "keep['late'] = Late('global')",
    "a global that writes": "keep['late'] = Late('global', lambda text, out=sys.stdout: out.write(text + chr(10)))",
    "a global that writes lines": "keep['late'] = Late('lines', lambda text, out=sys.stderr: out.writelines([text]))",
    "an attribute of a module": "sys.late = Late('attribute of sys'); os.late = Late('attribute of os')",
    "a cycle": f"{CYCLE}; keep['late'] = one; gc.disable()",
    "a local of a thread": "keep['late'] = threading.local(); keep['late'].value = Late('local of a thread')",
    "a cache": "keep['cache'] = functools.lru_cache(None)(lambda: Late('cached')); keep['cache']()",
    "a class": "keep['Kept'] = type('Kept', (), {'late': Late('attribute of a class')})",
    "a module that stays": "sys.modules['m'] = m = type(os)('m'); m.me = os.m = m; m.late = Late('of a module')",
    "a finalizer": "weakref.finalize(self.__class__, print, 'late: finalizer'); keep['late'] = self.__class__",
    "a finalizer that is not run at exit": "f = weakref.finalize(LateFlow, print, 'late'); f.atexit = False",
    "a handler at exit": "atexit.register(print, 'late: at exit', end=''); atexit.register(print, 'and')",
    "a record": f"{LOG}; keep['late'] = Late('record', logging.getLogger('late').warning)",
    "a record of a cycle": f"{LOG}; {CYCLE}; one.act = two.act = logging.getLogger('late').error; gc.disable()",
    "a record without handlers": "keep['late'] = Late('record', logging.warning)",
    "a record that cannot be formatted": f"{LOG}; keep['late'] = Late('%d', lambda text: logging.error('%d', text))",
    "an exit from there": "keep['late'] = Late('exit', lambda text, leave=os._exit: (print(text), leave(0)))",
}  # fmt: skip
# Whether and when such a thread comes to print is chance, so it prints nothing new.
THREADS = """keep['go'] = threading.Event()
            def spin(write=sys.stdout.write, go=keep['go']):
                go.set()
                while True:
                    write('')
            threads = [threading.Thread(target=spin, daemon=True) for _ in range(4)]
            [thread.start() for thread in threads]; keep['go'].wait()
            keep['late'] = Late('beside threads')"""
# Whoever is taken down first.
ALL = [
    body.replace("keep['late']", f"keep['late {name}']")
    for name, body in SHAPES.items()
    if "exit" not in name and "formatted" not in name
]


def test_output_at_exit_is_the_same_as_without_us(tmp_path: Path) -> None:
    """The same lines, and no `Exception ignored` that is not there without us; each shape in a process of its own."""
    bodies = [*SHAPES.values(), THREADS, "; ".join(ALL)]
    names = ["start", *(f"step_{number}" for number in range(1, len(bodies))), "end"]
    steps = (
        STEP.format(name=name, body=body, following=following)
        for name, body, following in zip(names, bodies, names[1:], strict=False)
    )
    Place(tmp_path).write("", "helper.py")
    flow = Place(tmp_path).write(FLOW.format(steps="".join(steps).strip()))
    places = [Place(tmp_path / each) for each in ("without", "with")]
    processes = []
    for place, arguments in zip(places, ((), ("--with", "otel")), strict=True):
        place.path.mkdir()
        processes.append(place.start(flow, *arguments))
    without, ours = (place.finish(process, timeout=300) for place, process in zip(places, processes, strict=True))
    assert without.stdout.count("late") > len(bodies)
    assert seen(ours) == seen(without)
    assert "incomplete" not in ours.stdout + ours.stderr
