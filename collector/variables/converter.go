// Package variables validates, before the start, the environment variables that the configuration reads.
//
// An invalid value would otherwise be ignored in favour of the default, or end in a page of errors that
// name everything but the variable. A configuration lists its variables under a top-level `variables:`, an
// overlay adds its own:
//
//	variables:
//	  COLLECTOR_DEVELOPMENT: {kind: choice, values: [keep, drop]}
//	  SPLUNK_HEC_URL: {kind: url, example: "https://splunk.example.com:8088/services/collector"}
//
// Whitespace around a value, such as the newline at the end of a Kubernetes secret, is removed for all readers.
// A configuration without `variables:`, a user's own, passes untouched.
package variables

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/confmap"
)

const section = "variables"

// NewFactory is what the collector's generated main.go calls.
func NewFactory() confmap.ConverterFactory {
	return confmap.NewConverterFactory(func(confmap.ConverterSettings) confmap.Converter {
		return converter{getenv: os.Getenv, setenv: os.Setenv}
	})
}

type converter struct {
	getenv func(string) string
	setenv func(string, string) error
}

// variable is one entry under `variables:`.
type variable struct {
	// Kind is a key of `kinds`.
	Kind string `mapstructure:"kind"`
	// Values are those that a choice has.
	Values []string `mapstructure:"values"`
	// Least is the smallest number.
	Least int64 `mapstructure:"least"`
	// Below names the variable that a number must be smaller than, with its default after a colon.
	Below string `mapstructure:"below"`
	// Example is a value that could be typed.
	Example string `mapstructure:"example"`
}

// Convert removes the section from conf. Its error is one line that names the invalid variable and what to type.
func (c converter) Convert(_ context.Context, conf *confmap.Conf) error {
	if !conf.IsSet(section) {
		return nil
	}
	sub, err := conf.Sub(section)
	if err != nil {
		return err
	}
	declared := make(map[string]variable)
	if err := sub.Unmarshal(&declared); err != nil {
		return fmt.Errorf("%s: each entry takes kind, values, least, below and example: %w", section, err)
	}
	conf.Delete(section)
	ports := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		v := declared[name]
		check, known := kinds[v.Kind]
		if !known {
			return fmt.Errorf("%s: %s is of the kind %q, which is none of %s",
				section, name, v.Kind, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
		}
		value := c.getenv(name)
		if trimmed := strings.TrimSpace(value); trimmed != value {
			if err := c.setenv(name, trimmed); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			value = trimmed
		}
		if value == "" {
			continue
		}
		if fault := check(v, value, c.getenv); fault != "" {
			return c.refusal(name, v, fault)
		}
		if v.Kind == "port" {
			if other, taken := ports[value]; taken {
				return fmt.Errorf("%s and %s are both %s: give each a port of its own", other, name, value)
			}
			ports[value] = name
		}
	}
	return nil
}

func (c converter) refusal(name string, v variable, fault string) error {
	if v.Example != "" {
		return fmt.Errorf("%s %s, as in %s=%s", name, fault, name, v.Example)
	}
	return fmt.Errorf("%s %s", name, fault)
}
