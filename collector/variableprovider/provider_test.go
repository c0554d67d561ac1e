package variableprovider

import (
	"context"
	"testing"

	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
)

func TestAVariableIsItsTextOrTheDefault(t *testing.T) {
	t.Setenv("OTEL_METAFLOW_TEST_EMPTY", "")
	t.Setenv("OTEL_METAFLOW_TEST_SET", "site.example")
	t.Setenv("OTEL_METAFLOW_TEST_BLANKS", " \n")
	t.Setenv("OTEL_METAFLOW_TEST_NEWLINE", "0123\n")
	t.Setenv("OTEL_METAFLOW_TEST_DOLLARS", "a$$b${env:OTEL_METAFLOW_TEST_SET}$")
	for uri, want := range map[string]any{
		"${env:OTEL_METAFLOW_TEST_BLANKS:-default}":                                       "default",
		"x ${env:OTEL_METAFLOW_TEST_NEWLINE:-}":                                           "x 0123",
		"${env:OTEL_METAFLOW_TEST_DOLLARS}":                                               "a$$b${env:OTEL_METAFLOW_TEST_SET}$",
		"${env:OTEL_METAFLOW_TEST_EMPTY:-default}":                                        "default",
		"${env:OTEL_METAFLOW_TEST_EMPTY:-https://${env:OTEL_METAFLOW_TEST_SET:-default}}": "https://site.example",
		"${env:OTEL_METAFLOW_TEST_EMPTY:-}":                                               nil,
		"${env:OTEL_METAFLOW_TEST_EMPTY}":                                                 nil,
		"${env:OTEL_METAFLOW_TEST_NONE:-default}":                                         "default",
		"${env:OTEL_METAFLOW_TEST_SET:-default}":                                          "site.example",
		"${env:OTEL_METAFLOW_TEST_EMPTY:-17}":                                             17,
		"${env:OTEL_METAFLOW_TEST_EMPTY:-localhost}:${env:OTEL_METAFLOW_TEST_NONE:-4317}": "localhost:4317",
	} {
		t.Run(uri, func(t *testing.T) {
			resolver, err := confmap.NewResolver(confmap.ResolverSettings{
				URIs:              []string{"yaml:found: " + uri},
				ProviderFactories: []confmap.ProviderFactory{NewFactory(), yamlprovider.NewFactory()},
			})
			if err != nil {
				t.Fatal(err)
			}
			conf, err := resolver.Resolve(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if got := conf.Get("found"); got != want {
				t.Errorf("%v (%T), not %v (%T)", got, got, want, want)
			}
		})
	}
}
