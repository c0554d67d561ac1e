package destinations

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// variable names, when it is set, exactly the destinations to send to. A key that
// got lost in a deployment then stops the start instead of silently switching a vendor off.
const variable = "COLLECTOR_DESTINATIONS"

// destination is one entry under `destinations:` in the configuration.
type destination struct {
	// Required variables must all be set for the destination to be on.
	Required []string `mapstructure:"required"`
	// Optional variables make sense only together with the required ones.
	Optional []string `mapstructure:"optional"`
	// Fallback is on when no other destination is.
	Fallback bool `mapstructure:"fallback"`
	// Routes are the ways to the destination, of which a variable chooses one.
	Routes routes `mapstructure:"routes"`
}

// routes are the variable that selects the route, and the routes; the first is the default.
type routes struct {
	Variable string   `mapstructure:"variable"`
	Names    []string `mapstructure:"names"`
}

// chosen returns the name of the route, empty where there is but one.
func (r routes) chosen(getenv func(string) string) (string, error) {
	if len(r.Names) == 0 {
		return "", nil
	}
	name := getenv(r.Variable)
	if name == "" {
		return r.Names[0], nil
	}
	if !slices.Contains(r.Names, name) {
		return "", fmt.Errorf("%s is %q: set it to %s", r.Variable, name, strings.Join(r.Names, " or "))
	}
	return name, nil
}

// choose returns the names of the destinations that are on, sorted. Errors are one line,
// name the variable and what to do: they are all that a user sees of a failed start.
func choose(declared map[string]destination, getenv func(string) string) ([]string, error) {
	if named := fields(getenv(variable)); len(named) > 0 {
		return named, complete(named, declared, getenv)
	}
	var on, fallback []string
	for _, name := range slices.Sorted(maps.Keys(declared)) {
		d := declared[name]
		if d.Fallback {
			fallback = append(fallback, name)
			continue
		}
		missing := unset(d.Required, getenv)
		all := slices.Concat(d.Required, d.Optional)
		given := slices.DeleteFunc(all, func(v string) bool { return getenv(v) == "" })
		switch {
		case len(given) == 0:
		case len(missing) == 0:
			on = append(on, name)
		default:
			return nil, fmt.Errorf(
				"%s, but %s: set %s to export to %s, or unset %s to run without it",
				isNotSet(missing), isSet(given), and(missing), name, and(given))
		}
	}
	if len(on) == 0 {
		return fallback, nil
	}
	return on, nil
}

// complete returns what the destinations that were requested by name lack.
func complete(named []string, declared map[string]destination, getenv func(string) string) error {
	for _, name := range named {
		d, known := declared[name]
		if !known {
			return fmt.Errorf("%s names %q: the configuration knows %s",
				variable, name, and(slices.Sorted(maps.Keys(declared))))
		}
		if missing := unset(d.Required, getenv); len(missing) > 0 {
			return fmt.Errorf("%s, but %s names %s: set %s, or take %s out of %s",
				isNotSet(missing), variable, name, and(missing), name, variable)
		}
	}
	return nil
}

// fields splits a list written with commas or spaces, sorted and each name once.
func fields(list string) []string {
	names := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
	slices.Sort(names)
	return slices.Compact(names)
}

func unset(variables []string, getenv func(string) string) []string {
	var missing []string
	for _, v := range variables {
		if getenv(v) == "" {
			missing = append(missing, v)
		}
	}
	return missing
}

func isNotSet(variables []string) string {
	if len(variables) == 1 {
		return variables[0] + " is not set"
	}
	return and(variables) + " are not set"
}

func isSet(variables []string) string {
	if len(variables) == 1 {
		return variables[0] + " is"
	}
	return and(variables) + " are"
}

func and(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
