package listenerauth

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/provider/envprovider"
	"go.opentelemetry.io/collector/confmap/provider/fileprovider"
	"go.opentelemetry.io/collector/confmap/provider/yamlprovider"
)

const shipped = "file:../config/config.yaml"

// resolve loads configuration as the collector does, with exactly these variables set.
func resolve(t *testing.T, env map[string]string, uris ...string) (*confmap.Conf, error) {
	t.Helper()
	for _, assignment := range os.Environ() {
		name, _, _ := strings.Cut(assignment, "=")
		if strings.HasPrefix(name, "COLLECTOR_") {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	for name, value := range env {
		t.Setenv(name, value)
	}
	resolver, err := confmap.NewResolver(confmap.ResolverSettings{
		URIs:               uris,
		ProviderFactories:  []confmap.ProviderFactory{envprovider.NewFactory(), fileprovider.NewFactory(), yamlprovider.NewFactory()},
		ConverterFactories: []confmap.ConverterFactory{NewFactory()},
	})
	if err != nil {
		t.Fatal(err)
	}
	return resolver.Resolve(context.Background())
}

func TestWhatTheVariablesLeaveEmptyIsTakenOut(t *testing.T) {
	const grpc, http = "receivers::otlp::protocols::grpc", "receivers::otlp::protocols::http"
	token := map[string]string{"COLLECTOR_OTLP_TOKEN": "1234e5", "COLLECTOR_LISTEN_HOST": "0.0.0.0"}
	tls := map[string]string{"COLLECTOR_OTLP_TLS_CERT_FILE": "/tls.crt", "COLLECTOR_OTLP_TLS_KEY_FILE": "/tls.key"}
	clients := map[string]string{"COLLECTOR_OTLP_TLS_CERT_FILE": "/tls.crt", "COLLECTOR_OTLP_TLS_KEY_FILE": "/tls.key", "COLLECTOR_OTLP_TLS_CLIENT_CA_FILE": "/ca.crt", "COLLECTOR_LISTEN_HOST": "0.0.0.0"}
	for _, test := range []struct {
		name                string
		env                 map[string]string
		auth, tls, clientCA bool
	}{
		{"nothing", nil, false, false, false},
		{"a token", token, true, false, false},
		{"a certificate", tls, false, true, false},
		{"certificates of clients stand for a token", clients, false, true, true},
		{"an anonymous listener", map[string]string{"COLLECTOR_OTLP_ALLOW_ANONYMOUS": "true", "COLLECTOR_LISTEN_HOST": "0.0.0.0"}, false, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			conf, err := resolve(t, test.env, shipped)
			if err != nil {
				t.Fatal(err)
			}
			for _, protocol := range []string{grpc, http} {
				for key, want := range map[string]bool{"::auth": test.auth, "::tls": test.tls, "::tls::client_ca_file": test.clientCA} {
					if conf.IsSet(protocol+key) != want {
						t.Errorf("%s%s is there: %v, not %v", protocol, key, !want, want)
					}
				}
			}
			started, _ := conf.Get("service::extensions").([]any)
			if slices.Contains(started, any("bearertokenauth")) != test.auth || conf.IsSet("extensions::bearertokenauth") != test.auth {
				t.Errorf("the extension is started: %v", started)
			}
			if len(started) < 2 {
				t.Errorf("other extensions went with it: %v", started)
			}
			if conf.IsSet(section) {
				t.Error("the collector would not know this section")
			}
		})
	}
}

func TestAnErrorNamesTheVariableAndSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"open to all", map[string]string{"COLLECTOR_LISTEN_HOST": "0.0.0.0"}, "0.0.0.0:4317 would accept telemetry from anybody: set COLLECTOR_OTLP_TOKEN"},
		{"open to all of IPv6", map[string]string{"COLLECTOR_LISTEN_HOST": "[::]"}, "set COLLECTOR_OTLP_TOKEN"},
		{"one address", map[string]string{"COLLECTOR_LISTEN_HOST": "192.168.1.7"}, "COLLECTOR_OTLP_ALLOW_ANONYMOUS=true"},
		{"explicitly not", map[string]string{"COLLECTOR_LISTEN_HOST": "0.0.0.0", "COLLECTOR_OTLP_ALLOW_ANONYMOUS": "false"}, "set COLLECTOR_OTLP_TOKEN"},
		{"a certificate of the server is no credential of the sender", map[string]string{"COLLECTOR_LISTEN_HOST": "0.0.0.0", "COLLECTOR_OTLP_TLS_CERT_FILE": "a", "COLLECTOR_OTLP_TLS_KEY_FILE": "b"}, "set COLLECTOR_OTLP_TOKEN"},
		{"certificate without key", map[string]string{"COLLECTOR_OTLP_TLS_CERT_FILE": "a"}, "COLLECTOR_OTLP_TLS_KEY_FILE is not set"},
		{"key without certificate", map[string]string{"COLLECTOR_OTLP_TLS_KEY_FILE": "a"}, "COLLECTOR_OTLP_TLS_CERT_FILE is not set"},
		{"clients without TLS", map[string]string{"COLLECTOR_OTLP_TLS_CLIENT_CA_FILE": "a"}, "COLLECTOR_OTLP_TLS_CERT_FILE and COLLECTOR_OTLP_TLS_KEY_FILE are not"},
		{"not a boolean", map[string]string{"COLLECTOR_OTLP_ALLOW_ANONYMOUS": "yes"}, `COLLECTOR_OTLP_ALLOW_ANONYMOUS is "yes": set it to true or false`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := resolve(t, test.env, shipped)
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, not one line with %q", err, test.want)
			}
		})
	}
}

func TestAllOfThisMachineIsLocal(t *testing.T) {
	for endpoint, want := range map[string]bool{
		"localhost:4317": true, "127.0.0.1:4317": true, "127.8.0.1:4317": true, "[::1]:4317": true,
		"0.0.0.0:4317": false, ":4317": false, "[::]:4317": false, "10.0.0.1:4317": false, "localhost.example.com:1": false,
	} {
		if isLocal(endpoint) != want {
			t.Errorf("%s", endpoint)
		}
	}
}

func TestAnotherAuthenticatorOfAnOverlayIsEnough(t *testing.T) {
	const overlay = "yaml:receivers::otlp::protocols::"
	conf, err := resolve(t, map[string]string{"COLLECTOR_LISTEN_HOST": "0.0.0.0"}, shipped,
		overlay+"grpc::auth::authenticator: oidc", overlay+"http::auth::authenticator: oidc")
	if err != nil {
		t.Fatal(err)
	}
	if got := conf.Get("receivers::otlp::protocols::http::auth::authenticator"); got != "oidc" {
		t.Errorf("%v", got)
	}
}

func TestAConfigurationOfOnesOwnIsNotTouched(t *testing.T) {
	conf, err := resolve(t, nil, "yaml:receivers::otlp::protocols::http::endpoint: 0.0.0.0:4318")
	if err != nil {
		t.Fatal(err)
	}
	if got := conf.Get("receivers::otlp::protocols::http::endpoint"); got != "0.0.0.0:4318" {
		t.Errorf("%v", got)
	}
}
