package destinations

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

var vendors = map[string]destination{
	"datadog": {Required: []string{"DD_API_KEY"}, Optional: []string{"DD_SITE"}},
	"splunk":  {Required: []string{"SPLUNK_HEC_URL", "SPLUNK_HEC_TOKEN"}, Optional: []string{"SPLUNK_INDEX"}},
	"otlp":    {Required: []string{"COLLECTOR_OTLP_FORWARD_ENDPOINT"}},
	"sample":  {Fallback: true},
}

// Every combination of the variables, against the rule stated the other way round: by whether
// each vendor is whole, absent or half set.
func TestEveryCombinationOfVariables(t *testing.T) {
	variables := []string{
		"DD_API_KEY", "DD_SITE", "SPLUNK_HEC_URL", "SPLUNK_HEC_TOKEN", "SPLUNK_INDEX", "COLLECTOR_OTLP_FORWARD_ENDPOINT",
	}
	for bits := range 1 << len(variables) {
		env := map[string]string{}
		for i, name := range variables {
			if bits&(1<<i) != 0 {
				env[name] = "value"
			}
		}
		has := func(name string) bool { return env[name] != "" }
		t.Run(fmt.Sprintf("%06b", bits), func(t *testing.T) {
			var want, missing []string
			if has("DD_API_KEY") {
				want = append(want, "datadog")
			} else if has("DD_SITE") {
				missing = append(missing, "DD_API_KEY")
			}
			if has("COLLECTOR_OTLP_FORWARD_ENDPOINT") {
				want = append(want, "otlp")
			}
			if has("SPLUNK_HEC_URL") && has("SPLUNK_HEC_TOKEN") {
				want = append(want, "splunk")
			} else if has("SPLUNK_HEC_URL") || has("SPLUNK_HEC_TOKEN") || has("SPLUNK_INDEX") {
				for _, name := range []string{"SPLUNK_HEC_URL", "SPLUNK_HEC_TOKEN"} {
					if !has(name) {
						missing = append(missing, name)
					}
				}
			}
			if len(want) == 0 {
				want = []string{"sample"}
			}

			got, err := choose(vendors, func(name string) string { return env[name] })

			if len(missing) == 0 {
				if err != nil || !slices.Equal(got, want) {
					t.Fatalf("%v: got %v, %v; want %v", env, got, err, want)
				}
				return
			}
			if err == nil {
				t.Fatalf("%v: no error, although %v are missing", env, missing)
			}
			// The first vendor that is half set is enough to stop; it must be named.
			if !strings.Contains(err.Error(), missing[0]+" ") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v: %q is not one line that names %s", env, err, missing[0])
			}
		})
	}
}

func TestMessagesSayWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{
			"one variable of two",
			map[string]string{"SPLUNK_HEC_URL": "x"},
			"SPLUNK_HEC_TOKEN is not set, but SPLUNK_HEC_URL is: " +
				"set SPLUNK_HEC_TOKEN to export to splunk, or unset SPLUNK_HEC_URL to run without it",
		},
		{
			"only what is optional",
			map[string]string{"SPLUNK_INDEX": "x"},
			"SPLUNK_HEC_URL and SPLUNK_HEC_TOKEN are not set, but SPLUNK_INDEX is: " +
				"set SPLUNK_HEC_URL and SPLUNK_HEC_TOKEN to export to splunk, or unset SPLUNK_INDEX to run without it",
		},
		{
			"asked for by name",
			map[string]string{"COLLECTOR_DESTINATIONS": "datadog,splunk", "SPLUNK_HEC_URL": "x", "SPLUNK_HEC_TOKEN": "x"},
			"DD_API_KEY is not set, but COLLECTOR_DESTINATIONS names datadog: " +
				"set DD_API_KEY, or take datadog out of COLLECTOR_DESTINATIONS",
		},
		{
			"an unknown name",
			map[string]string{"COLLECTOR_DESTINATIONS": "dataduck"},
			`COLLECTOR_DESTINATIONS names "dataduck": the configuration knows datadog, otlp, sample and splunk`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := choose(vendors, func(name string) string { return test.env[name] })
			if err == nil || err.Error() != test.want {
				t.Fatalf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestDestinationsByNameAreExactlyThose(t *testing.T) {
	env := map[string]string{
		"DD_API_KEY": "x", "SPLUNK_HEC_URL": "x", "SPLUNK_HEC_TOKEN": "x", "COLLECTOR_DESTINATIONS": "splunk, sample splunk",
	}
	got, err := choose(vendors, func(name string) string { return env[name] })
	if err != nil || !slices.Equal(got, []string{"sample", "splunk"}) {
		t.Fatalf("got %v, %v", got, err)
	}
}
