// Package destinations switches the pipelines of the collector's configuration by environment.
//
// Collector configuration has no "if", and an exporter without its key stops the start even
// when no pipeline uses it. So the shipped configuration holds the pipelines of every
// destination, and declares under a top-level `destinations:` which variables each one needs:
//
//	destinations:
//	  splunk:
//	    required: [SPLUNK_HEC_URL, SPLUNK_HEC_TOKEN]
//	    optional: [SPLUNK_INDEX]
//	  sample:
//	    fallback: true
//
// A pipeline belongs to a destination when the part of its id after the slash is the
// destination's name (`logs/splunk`), or that and the name of a route (`logs/datadog.otlp`), of which
// a variable chooses one. The converter takes out what belongs to a destination
// that is off: its pipelines, the components that nothing else uses, and the connectors that
// led to it. It runs after all --config files are merged, so an overlay may add to all of this.
//
// A configuration without `destinations:`, a user's own, passes untouched.
package destinations

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/zap"
)

const section = "destinations"

// NewFactory is what the collector's generated main.go calls.
func NewFactory() confmap.ConverterFactory {
	return confmap.NewConverterFactory(func(settings confmap.ConverterSettings) confmap.Converter {
		return converter{getenv: os.Getenv, logger: settings.Logger}
	})
}

type converter struct {
	getenv func(string) string
	logger *zap.Logger
}

// Convert edits conf key by key. Never replace whole maps from conf.ToStringMap(): it forgets
// how a value was spelled in the environment, and a token 1234e5 would become a number.
func (c converter) Convert(_ context.Context, conf *confmap.Conf) error {
	if !conf.IsSet(section) {
		return nil
	}
	declared, err := declarations(conf)
	if err != nil {
		return err
	}
	on, err := choose(declared, c.getenv)
	if err != nil {
		return err
	}
	// The pipelines of every destination and route, and whether they are to stay.
	stays := make(map[string]bool)
	for name, d := range declared {
		stays[name] = slices.Contains(on, name)
		route, err := d.Routes.chosen(c.getenv)
		if err != nil {
			return err
		}
		for _, each := range d.Routes.Names {
			stays[name+"."+each] = stays[name] && each == route
		}
	}

	everything := pipelines(conf)
	kept := maps.Clone(everything)
	maps.DeleteFunc(kept, func(id string, _ pipeline) bool {
		stay, belongs := stays[nameOf(id)]
		return belongs && !stay
	})
	for id := range everything {
		if _, keep := kept[id]; !keep {
			conf.Delete("service::pipelines::" + id)
		}
	}
	if err := dropDeadEnds(conf, everything, kept); err != nil {
		return err
	}
	dropUnused(conf, used(everything), used(kept))
	dropEmpty(conf, kept, stays)
	c.report(declared, on)
	return nil
}

// declarations takes the section out of conf: the collector refuses keys it does not know.
func declarations(conf *confmap.Conf) (map[string]destination, error) {
	sub, err := conf.Sub(section)
	if err != nil {
		return nil, err
	}
	declared := make(map[string]destination)
	if err := sub.Unmarshal(&declared); err != nil {
		return nil, fmt.Errorf("%s: each entry takes required, optional, fallback and routes: %w", section, err)
	}
	conf.Delete(section)
	return declared, nil
}

// report logs at start where telemetry goes, and which variables would enable the rest.
func (c converter) report(declared map[string]destination, on []string) {
	sending := c.logger.Info
	if !slices.ContainsFunc(on, func(name string) bool { return !declared[name].Fallback }) {
		sending = c.logger.Warn
	}
	sending("exporting to " + and(on))
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		if !declared[name].Fallback && !slices.Contains(on, name) {
			c.logger.Info(fmt.Sprintf("not exporting to %s: set %s to enable it", name, and(declared[name].Required)))
		}
	}
}

// pipeline is the part of a pipeline's configuration that holds ids of components.
type pipeline struct{ receivers, processors, exporters []string }

func pipelines(conf *confmap.Conf) map[string]pipeline {
	found := make(map[string]pipeline)
	sub, _ := conf.Get("service::pipelines").(map[string]any)
	for id, value := range sub {
		body, _ := value.(map[string]any)
		found[id] = pipeline{ids(body["receivers"]), ids(body["processors"]), ids(body["exporters"])}
	}
	return found
}

func ids(list any) []string {
	values, _ := list.([]any)
	found := make([]string, 0, len(values))
	for _, value := range values {
		found = append(found, fmt.Sprint(value))
	}
	return found
}

// nameOf is what follows the slash in an id, destination and route: datadog.otlp of logs/datadog.otlp
// and of logs/datadog.otlp.again, for a route may take more than one pipeline.
func nameOf(id string) string {
	_, name, _ := strings.Cut(id, "/")
	parts := strings.SplitN(name, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// dropDeadEnds takes connectors that no kept pipeline receives from any more out of the
// exporters of those that are kept.
func dropDeadEnds(conf *confmap.Conf, everything, kept map[string]pipeline) error {
	received := make(map[string]bool)
	for id, p := range everything {
		_, keep := kept[id]
		for _, receiver := range p.receivers {
			received[receiver] = received[receiver] || keep
		}
	}
	for id, p := range kept {
		exporters := slices.DeleteFunc(slices.Clone(p.exporters), func(exporter string) bool {
			alive, connector := received[exporter]
			return connector && !alive
		})
		if len(exporters) == len(p.exporters) {
			continue
		}
		p.exporters = exporters
		kept[id] = p
		key := "service::pipelines::" + id + "::exporters"
		if err := conf.Merge(confmap.NewFromStringMap(map[string]any{key: exporters})); err != nil {
			return err
		}
	}
	return nil
}

// used returns the ids of the components of all pipelines, as keys of the configuration.
func used(all map[string]pipeline) map[string]bool {
	keys := make(map[string]bool)
	for _, p := range all {
		for _, id := range slices.Concat(p.receivers, p.exporters) {
			keys["connectors::"+id] = true
		}
		for _, id := range p.receivers {
			keys["receivers::"+id] = true
		}
		for _, id := range p.processors {
			keys["processors::"+id] = true
		}
		for _, id := range p.exporters {
			keys["exporters::"+id] = true
		}
	}
	return keys
}

// dropUnused takes out what only dropped pipelines used. A component that was never used
// is the user's own affair and stays.
func dropUnused(conf *confmap.Conf, before, after map[string]bool) {
	for key := range before {
		if !after[key] {
			conf.Delete(key)
		}
	}
}

// dropEmpty takes settings without a value out of the exporters of destinations, so that a
// variable that is unset or empty means the exporter's own default: an empty endpoint
// is an error to the Datadog exporter where no endpoint means that of the site.
func dropEmpty(conf *confmap.Conf, kept map[string]pipeline, stays map[string]bool) {
	for id, p := range kept {
		if !stays[nameOf(id)] {
			continue
		}
		for _, exporter := range p.exporters {
			for _, key := range conf.AllKeys() {
				value := conf.Get(key)
				if strings.HasPrefix(key, "exporters::"+exporter+"::") && (value == nil || value == "") {
					conf.Delete(key)
				}
			}
		}
	}
}
