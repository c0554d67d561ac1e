// Package listenerauth authenticates the senders of the collector's OTLP receivers.
//
// The shipped configuration requires a token of every sender and uses TLS, both from environment
// variables; collector configuration has no "if", so this converter removes what they leave empty.
// A receiver that would then listen beyond this machine without authentication is a start error, unless
// that is allowed explicitly. The names of the variables are listed under a top-level `listener_auth:`:
//
//	listener_auth:
//	  authenticator: bearertokenauth
//	  token: COLLECTOR_OTLP_TOKEN
//	  anonymous: COLLECTOR_OTLP_ALLOW_ANONYMOUS
//	  certificate: COLLECTOR_OTLP_TLS_CERT_FILE
//	  key: COLLECTOR_OTLP_TLS_KEY_FILE
//	  client_ca: COLLECTOR_OTLP_TLS_CLIENT_CA_FILE
//
// A configuration without `listener_auth:`, a user's own, passes untouched.
package listenerauth

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

const section = "listener_auth"

// NewFactory is what the collector's generated main.go calls.
func NewFactory() confmap.ConverterFactory {
	return confmap.NewConverterFactory(func(confmap.ConverterSettings) confmap.Converter {
		return converter{getenv: os.Getenv}
	})
}

type converter struct{ getenv func(string) string }

// settings is what stands under `listener_auth:`: an extension, and the names of variables.
type settings struct {
	Authenticator string `mapstructure:"authenticator"`
	Token         string `mapstructure:"token"`
	Anonymous     string `mapstructure:"anonymous"`
	Certificate   string `mapstructure:"certificate"`
	Key           string `mapstructure:"key"`
	ClientCA      string `mapstructure:"client_ca"`
}

// Convert edits conf key by key. Its error is one line that names the variable to set.
func (c converter) Convert(_ context.Context, conf *confmap.Conf) error {
	if !conf.IsSet(section) {
		return nil
	}
	sub, err := conf.Sub(section)
	if err != nil {
		return err
	}
	var d settings
	if err := sub.Unmarshal(&d); err != nil {
		return fmt.Errorf("%s: %w", section, err)
	}
	conf.Delete(section)
	if err := c.check(d); err != nil {
		return err
	}
	if c.getenv(d.Token) == "" {
		if err := dropAuthenticator(conf, d.Authenticator); err != nil {
			return err
		}
	}
	for _, protocol := range protocols(conf) {
		c.dropEmpty(conf, d, protocol)
		if err := c.checkListener(conf, d, protocol); err != nil {
			return err
		}
	}
	return nil
}

// check finds variables that are partly configured or invalid.
func (c converter) check(d settings) error {
	certificate, key, clients := c.getenv(d.Certificate), c.getenv(d.Key), c.getenv(d.ClientCA)
	switch {
	case certificate != "" && key == "":
		return fmt.Errorf("%s is not set, but %s is: set both for TLS, or neither", d.Key, d.Certificate)
	case certificate == "" && key != "":
		return fmt.Errorf("%s is not set, but %s is: set both for TLS, or neither", d.Certificate, d.Key)
	case certificate == "" && clients != "":
		return fmt.Errorf("%s is set, but %s and %s are not: set both, as client certificates need TLS",
			d.ClientCA, d.Certificate, d.Key)
	}
	switch anonymous := c.getenv(d.Anonymous); anonymous {
	case "", "true", "false":
		return nil
	default:
		return fmt.Errorf("%s is %q: set it to true or false", d.Anonymous, anonymous)
	}
}

// dropEmpty removes from a protocol what its variables leave empty.
func (c converter) dropEmpty(conf *confmap.Conf, d settings, protocol string) {
	if c.getenv(d.Token) == "" && conf.Get(protocol+"::auth::authenticator") == d.Authenticator {
		conf.Delete(protocol + "::auth")
	}
	if empty(conf.Get(protocol + "::tls::cert_file")) {
		conf.Delete(protocol + "::tls")
	} else if empty(conf.Get(protocol + "::tls::client_ca_file")) {
		conf.Delete(protocol + "::tls::client_ca_file")
	}
}

// checkListener rejects a protocol that accepts unauthenticated senders from other machines.
func (c converter) checkListener(conf *confmap.Conf, d settings, protocol string) error {
	endpoint := fmt.Sprint(conf.Get(protocol + "::endpoint"))
	asks := conf.IsSet(protocol+"::auth") || conf.IsSet(protocol+"::tls::client_ca_file")
	if asks || isLocal(endpoint) || c.getenv(d.Anonymous) == "true" {
		return nil
	}
	return fmt.Errorf("%s would accept telemetry from anybody: set %s to a secret that senders must send, "+
		"or %s=true if the network is protected otherwise, or listen on localhost", endpoint, d.Token, d.Anonymous)
}

// protocols returns the keys of what the OTLP receivers listen with.
func protocols(conf *confmap.Conf) []string {
	var found []string
	receivers, _ := conf.Get("receivers").(map[string]any)
	for id := range receivers {
		if kind, _, _ := strings.Cut(id, "/"); kind != "otlp" {
			continue
		}
		key := "receivers::" + id + "::protocols"
		listening, _ := conf.Get(key).(map[string]any)
		for name := range maps.Keys(listening) {
			found = append(found, key+"::"+name)
		}
	}
	slices.Sort(found)
	return found
}

// dropAuthenticator takes the extension out, of the list of those to start too.
func dropAuthenticator(conf *confmap.Conf, id string) error {
	conf.Delete("extensions::" + id)
	started, _ := conf.Get("service::extensions").([]any)
	kept := slices.DeleteFunc(slices.Clone(started), func(each any) bool { return each == id })
	return conf.Merge(confmap.NewFromStringMap(map[string]any{"service::extensions": kept}))
}

func isLocal(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		return false
	}
	address := net.ParseIP(host)
	return host == "localhost" || address != nil && address.IsLoopback()
}

func empty(value any) bool { return value == nil || value == "" }
