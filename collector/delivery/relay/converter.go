// Package relay is a converter that routes an exporter through the collector itself.
//
// Datadog's exporter brings HTTP clients of its own, which take no middleware. So where an extension
// metaflow_delivery has a `relay`, it listens on a port of this machine that nothing else uses, and here the
// exporter is configured to send there instead:
//
//	extensions:
//	  metaflow_delivery/datadog_logs:
//	    relay:
//	      exporter: datadog
//	      setting: logs::endpoint
//	      intake: https://http-intake.logs.datadoghq.com   # where that setting has no value
//
// It runs after what takes out exporters that are off; a relay without its exporter is taken out, too.
package relay

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

// NewFactory is what the collector's generated main.go calls.
func NewFactory() confmap.ConverterFactory {
	return confmap.NewConverterFactory(func(confmap.ConverterSettings) confmap.Converter { return converter{} })
}

type converter struct{}

// Convert edits conf key by key, as the other converters do.
func (converter) Convert(_ context.Context, conf *confmap.Conf) error {
	extensions, _ := conf.Get("extensions").(map[string]any)
	for id := range extensions {
		key := "extensions::" + id + "::relay"
		if !strings.HasPrefix(id, "metaflow_delivery") || !conf.IsSet(key) {
			continue
		}
		exporter, _ := conf.Get(key + "::exporter").(string)
		setting, _ := conf.Get(key + "::setting").(string)
		intake, _ := conf.Get(key + "::intake").(string)
		conf.Delete(key)
		if !conf.IsSet("exporters::" + exporter) {
			continue
		}
		setting = "exporters::" + exporter + "::" + setting
		if own, _ := conf.Get(setting).(string); own != "" {
			intake = own
		}
		listen, err := Open()
		if err != nil {
			return fmt.Errorf("no port of this machine is free: %w", err)
		}
		if err := conf.Merge(confmap.NewFromStringMap(map[string]any{
			key + "::listen": listen, key + "::intake": intake, setting: "http://" + listen,
		})); err != nil {
			return err
		}
	}
	return nil
}
