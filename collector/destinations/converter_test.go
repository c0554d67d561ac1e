package destinations

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const shipped = "file:../config/config.yaml"

// resolve loads configuration as the collector does, with exactly these variables set.
func resolve(t *testing.T, env map[string]string, uris ...string) (*confmap.Conf, *observer.ObservedLogs, error) {
	t.Helper()
	for _, assignment := range os.Environ() {
		name, _, _ := strings.Cut(assignment, "=")
		if strings.HasPrefix(name, "DD_") || strings.HasPrefix(name, "SPLUNK_") || strings.HasPrefix(name, "COLLECTOR_") {
			t.Setenv(name, "")
		}
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
	core, logs := observer.New(zap.InfoLevel)
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs:               uris,
		ProviderFactories:  []confmap.ProviderFactory{envprovider.NewFactory(), fileprovider.NewFactory(), yamlprovider.NewFactory()},
		ConverterFactories: []confmap.ConverterFactory{NewFactory()},
		ConverterSettings:  confmap.ConverterSettings{Logger: zap.New(core)},
	})
	if err != nil {
		t.Fatal(err)
	}
	conf, err := resolver.Resolve(context.Background())
	return conf, logs, err
}

func keys(conf *confmap.Conf, key string) string {
	section, _ := conf.Get(key).(map[string]any)
	return strings.Join(slices.Sorted(maps.Keys(section)), " ")
}

func TestTheShippedConfigurationKeepsOnlyWhatIsOn(t *testing.T) {
	datadog := map[string]string{"DD_API_KEY": "abc"}
	splunk := map[string]string{"SPLUNK_HEC_URL": "https://splunk:8088", "SPLUNK_HEC_TOKEN": "t"}
	intake := map[string]string{"COLLECTOR_DATADOG_ROUTE": "otlp"}
	otlp := map[string]string{"COLLECTOR_OTLP_FORWARD_ENDPOINT": "https://other:4318"}
	for _, test := range []struct {
		name                 string
		env                  []map[string]string
		exporters, pipelines string
	}{
		{"neither", nil, "debug/sample", "sample"},
		{"datadog", []map[string]string{datadog}, "datadog", "datadog.exporter"},
		{"datadog over OTLP", []map[string]string{datadog, intake}, "otlp_http/datadog otlp_http/datadog_metrics", "datadog.otlp"},
		{"splunk", []map[string]string{splunk}, "splunk_hec splunk_hec/metrics", "splunk"},
		{"otlp", []map[string]string{otlp}, "otlp_http/forward", "otlp"},
		{"both vendors", []map[string]string{datadog, splunk}, "datadog splunk_hec splunk_hec/metrics", "datadog.exporter splunk"},
		{"all", []map[string]string{datadog, splunk, otlp}, "datadog otlp_http/forward splunk_hec splunk_hec/metrics", "datadog.exporter otlp splunk"},
	} {
		t.Run(test.name, func(t *testing.T) {
			env := map[string]string{}
			for _, part := range test.env {
				maps.Copy(env, part)
			}
			conf, logs, err := resolve(t, env, shipped)
			if err != nil {
				t.Fatal(err)
			}
			if got := keys(conf, "exporters"); got != test.exporters {
				t.Errorf("exporters: %s", got)
			}
			var on, pipelines, connectors []string
			for _, signal := range []string{"logs", "metrics", "traces"} {
				pipelines = append(pipelines, signal)
				for _, name := range strings.Fields(test.pipelines) {
					pipelines = append(pipelines, signal+"/"+name)
					// Over OTLP there is a queue of ours for metrics only.
					if name == "datadog.exporter" || name == "datadog.otlp" && signal == "metrics" {
						pipelines = append(pipelines, signal+"/"+name+".ack_gate")
					}
				}
			}
			for _, name := range strings.Fields(test.pipelines) {
				name, _, _ = strings.Cut(name, ".")
				on = append(on, name)
				connectors = append(connectors, "forward/"+name)
			}
			if got, want := keys(conf, "service::pipelines"), strings.Join(pipelines, " "); got != want {
				t.Errorf("pipelines: got %s, want %s", got, want)
			}
			for _, signal := range []string{"logs", "metrics", "traces"} {
				if got := fmt.Sprint(conf.Get("service::pipelines::" + signal + "::exporters")); got != fmt.Sprint(connectors) {
					t.Errorf("%s goes to %s, want %v", signal, got, connectors)
				}
			}
			if strings.Contains(test.pipelines, "datadog.exporter") {
				connectors = append(append([]string{"datadog/stats"}, connectors...), "metaflow_ack_gate/datadog")
			}
			if strings.Contains(test.pipelines, "datadog.otlp") {
				connectors = append(connectors, "metaflow_ack_gate/datadog_otlp")
			}
			if got := keys(conf, "connectors"); got != strings.Join(connectors, " ") {
				t.Errorf("connectors: %s", got)
			}
			if conf.IsSet("destinations") {
				t.Error("the collector would refuse the key destinations")
			}
			sending := "exporting to " + and(on)
			if logs.FilterMessage(sending).Len() != 1 {
				t.Errorf("%q is not logged at start: %v", sending, logs.All())
			}
			if warned := logs.FilterLevelExact(zap.WarnLevel).Len() > 0; warned != (test.pipelines == "sample") {
				t.Errorf("warnings: %v", logs.All())
			}
		})
	}
}

func TestAnEmptyVariableMeansTheExportersOwnDefault(t *testing.T) {
	for _, env := range []map[string]string{
		{"DD_API_KEY": "abc"},
		{"DD_API_KEY": "abc", "DD_SITE": "", "DD_DD_URL": "", "DD_APM_DD_URL": "", "DD_LOGS_CONFIG_LOGS_DD_URL": ""},
	} {
		conf, _, err := resolve(t, env, shipped)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"api::site", "logs::endpoint", "metrics::endpoint", "traces::endpoint"} {
			if conf.IsSet("exporters::datadog::" + key) {
				t.Errorf("%v: %s is set", env, key)
			}
		}
		if !conf.IsSet("exporters::datadog::metrics::resource_attributes_as_tags") {
			t.Error("a setting with a value was taken out")
		}
	}
}

func TestAValueKeepsItsSpelling(t *testing.T) {
	env := map[string]string{"SPLUNK_HEC_URL": "https://splunk:8088", "SPLUNK_HEC_TOKEN": "1234e5", "SPLUNK_INDEX": "007"}
	conf, _, err := resolve(t, env, shipped)
	if err != nil {
		t.Fatal(err)
	}
	exporter, err := conf.Sub("exporters::splunk_hec")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Token string         `mapstructure:"token"`
		Index string         `mapstructure:"index"`
		Rest  map[string]any `mapstructure:",remain"`
	}
	if err := exporter.Unmarshal(&got); err != nil {
		t.Fatal(err)
	}
	if got.Token != "1234e5" || got.Index != "007" {
		t.Errorf("got %q and %q", got.Token, got.Index)
	}
}

func TestAHalfSetVendorStopsTheStart(t *testing.T) {
	_, _, err := resolve(t, map[string]string{"SPLUNK_HEC_URL": "https://splunk:8088"}, shipped)
	if err == nil || !strings.Contains(err.Error(), "SPLUNK_HEC_TOKEN is not set") {
		t.Fatalf("got %v", err)
	}
}

func TestAnOverlayMayAddADestination(t *testing.T) {
	overlay := `yaml:
destinations: {archive: {required: [ARCHIVE]}}
connectors: {forward/archive: }
exporters: {file/archive: {path: "${env:ARCHIVE:-}"}}
service:
  pipelines:
    logs: {exporters: [forward/datadog, forward/otlp, forward/splunk, forward/sample, forward/archive]}
    logs/archive: {receivers: [forward/archive], exporters: [file/archive]}`
	conf, _, err := resolve(t, map[string]string{"ARCHIVE": "/tmp/logs"}, shipped, overlay)
	if err != nil {
		t.Fatal(err)
	}
	if got := keys(conf, "exporters"); got != "file/archive" {
		t.Errorf("exporters: %s", got)
	}
}

func TestAUsersOwnConfigurationPassesUntouched(t *testing.T) {
	own := "yaml:{exporters: {debug: , datadog: {metrics: {endpoint: }}}, service: {pipelines: {logs/datadog: {exporters: [debug]}}}}"
	conf, _, err := resolve(t, nil, own)
	if err != nil {
		t.Fatal(err)
	}
	if !conf.IsSet("exporters::datadog::metrics::endpoint") || !conf.IsSet("service::pipelines::logs/datadog") {
		t.Errorf("got %v", conf.ToStringMap())
	}
}

func TestARouteThatIsNotThereStopsTheStart(t *testing.T) {
	_, _, err := resolve(t, map[string]string{"DD_API_KEY": "abc", "COLLECTOR_DATADOG_ROUTE": "olpt"}, shipped)
	if err == nil || !strings.Contains(err.Error(), `COLLECTOR_DATADOG_ROUTE is "olpt": set it to exporter or otlp`) {
		t.Fatalf("got %v", err)
	}
}

func TestAMisspeltDeclarationIsAnError(t *testing.T) {
	_, _, err := resolve(t, nil, "yaml:{destinations: {splunk: {require: [SPLUNK_HEC_URL]}}}")
	if err == nil || !strings.Contains(err.Error(), "required, optional, fallback and routes") {
		t.Fatalf("got %v", err)
	}
}
