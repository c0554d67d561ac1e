// Package variableprovider reads environment variables into the configuration, as `${env:NAME:-default}`.
//
// It is the collector's own provider with three differences. An empty variable counts as not set, as the
// OpenTelemetry specification requires of all SDKs: Compose files, Helm charts and task definitions pass on empty
// variables where nobody set any, and the default is meant for those too. Whitespace around a value is removed,
// such as the newline at the end of a Kubernetes secret. And a value is literal: in a token, $$ is two dollar
// signs, and ${…} is not another variable.
package variableprovider

import (
	"context"
	"os"
	"strings"

	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
)

// NewFactory is what the collector's generated main.go calls.
func NewFactory() confmap.ProviderFactory {
	return confmap.NewProviderFactory(func(settings confmap.ProviderSettings) confmap.Provider {
		return provider{envprovider.NewFactory().Create(settings)}
	})
}

type provider struct{ confmap.Provider }

// Retrieve returns the value of a variable, or the default.
func (p provider) Retrieve(ctx context.Context, uri string, watcher confmap.WatcherFunc) (*confmap.Retrieved, error) {
	name, fallback, hasFallback := strings.Cut(strings.TrimPrefix(uri, p.Scheme()+":"), ":-")
	value := strings.TrimSpace(os.Getenv(name))
	switch {
	case value != "":
		return confmap.NewRetrievedFromYAML([]byte(strings.ReplaceAll(value, "$", "$$")))
	case hasFallback:
		return confmap.NewRetrievedFromYAML([]byte(fallback))
	}
	return p.Provider.Retrieve(ctx, uri, watcher)
}
