package relay

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/confmap"
)

func converted(t *testing.T, exporters map[string]any) *confmap.Conf {
	t.Helper()
	conf := confmap.NewFromStringMap(map[string]any{
		"extensions": map[string]any{"metaflow_delivery/logs": map[string]any{"relay": map[string]any{
			"exporter": "datadog", "setting": "logs::endpoint", "intake": "https://intake",
		}}},
		"exporters": exporters,
	})
	if err := NewFactory().Create(confmap.ConverterSettings{}).Convert(context.Background(), conf); err != nil {
		t.Fatal(err)
	}
	return conf
}

func TestTheExporterSendsToTheRelayAndTheRelayToTheIntake(t *testing.T) {
	for own, want := range map[string]string{"": "https://intake", "http://proxy:3834": "http://proxy:3834"} {
		conf := converted(t, map[string]any{"datadog": map[string]any{"logs": map[string]any{"endpoint": own, "batch_wait": 1}}})
		listen, _ := conf.Get("extensions::metaflow_delivery/logs::relay::listen").(string)
		if !strings.HasPrefix(listen, "127.0.0.1:") || conf.Get("exporters::datadog::logs::endpoint") != "http://"+listen {
			t.Errorf("%v", conf.ToStringMap())
		}
		if got := conf.Get("extensions::metaflow_delivery/logs::relay::intake"); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		if conf.Get("exporters::datadog::logs::batch_wait") != 1 {
			t.Error("another setting is gone")
		}
	}
}

func TestWithoutTheExporterThereIsNoRelay(t *testing.T) {
	if conf := converted(t, map[string]any{"splunk_hec": nil}); conf.IsSet("extensions::metaflow_delivery/logs::relay") {
		t.Errorf("%v", conf.ToStringMap())
	}
}

func TestAListenerAnswersUntilItIsServed(t *testing.T) {
	address, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]int{"{}": http.StatusAccepted, `[{"message":"a"}]`: http.StatusServiceUnavailable} {
		answer, err := http.Post("http://"+address, "application/json", strings.NewReader(body))
		if err != nil || answer.StatusCode != want {
			t.Errorf("%s: %v, %v", body, answer, err)
		}
	}
	At(address).Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	answer, err := http.Post("http://"+address, "application/json", strings.NewReader("{}"))
	if err != nil || answer.StatusCode != http.StatusTeapot {
		t.Errorf("%v, %v", answer, err)
	}
	if err := At(address).Close(context.Background()); err != nil {
		t.Error(err)
	}
	if At("127.0.0.1:1") != nil {
		t.Error("a listener that nobody opened")
	}
}
