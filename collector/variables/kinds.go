package variables

import (
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
	// The image holds no zones.
	_ "time/tzdata"

	"go.opentelemetry.io/collector/confmap"
)

// check returns what is wrong with a value and what to type, to be read behind the variable's name; nothing if it
// is right. It shows a value only where that cannot be a secret that was put into the wrong variable.
type check func(v variable, value string, getenv func(string) string) string

var kinds = map[string]check{
	"address":  plain(address),
	"choice":   choice,
	"duration": plain(duration),
	"file":     file,
	"flag":     flag,
	"folder":   plain(folder),
	"headers":  headers,
	"host":     plain(host),
	"key":      plain(key),
	"number":   number,
	"patterns": patterns,
	"port":     port,
	"regex":    regex,
	"secret":   plain(secret),
	"site":     plain(site),
	"text":     plain(text),
	"time":     plain(instant),
	"url":      plain(web),
	"zone":     plain(zone),
}

// plain checks a value that stands for itself: quotes around it were meant for a shell.
func plain(next func(value string) string) check {
	return func(_ variable, value string, _ func(string) string) string {
		if quoted(value) {
			return "is written in quotes, which would be part of it: take them off"
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "holds a line break or another control character: set it to one line of text"
		}
		return next(value)
	}
}

func quoted(value string) bool {
	last := len(value) - 1
	return last > 0 && value[0] == value[last] && (value[0] == '"' || value[0] == '\'')
}

// shown is a value for a message, cut where it is long.
func shown(value string) string {
	const most = 24
	if runes := []rune(value); len(runes) > most {
		value = string(runes[:most]) + "…"
	}
	return strconv.Quote(value)
}

func choice(v variable, value string, _ func(string) string) string {
	for _, each := range v.Values {
		if value == each {
			return ""
		}
	}
	return fmt.Sprintf("is %s: set it to %s", shown(value), strings.Join(v.Values, " or "))
}

func flag(_ variable, value string, getenv func(string) string) string {
	return choice(variable{Values: []string{"true", "false"}}, value, getenv)
}

var digits = regexp.MustCompile(`^[0-9]{1,18}$`)

func number(v variable, value string, getenv func(string) string) string {
	given, _ := strconv.ParseInt(value, 10, 64)
	if !digits.MatchString(value) || given < v.Least {
		return fmt.Sprintf("is %s: set it to a whole number, %d or more", shown(value), v.Least)
	}
	if v.Below == "" {
		return ""
	}
	name, limit, _ := strings.Cut(v.Below, ":")
	if set := strings.TrimSpace(getenv(name)); set != "" {
		limit = set
	}
	if most, err := strconv.ParseInt(limit, 10, 64); err == nil && given >= most {
		return fmt.Sprintf("is %d, but %s is %d: set it to less", given, name, most)
	}
	return ""
}

func port(_ variable, value string, _ func(string) string) string {
	if given, err := strconv.Atoi(value); !digits.MatchString(value) || err != nil || given < 1 || given > 65535 {
		return fmt.Sprintf("is %s: set it to a port, 1 to 65535", shown(value))
	}
	return ""
}

func duration(value string) string {
	if given, err := time.ParseDuration(value); err != nil || given <= 0 {
		return fmt.Sprintf("is %s: set it to a number with its unit, s, m or h", shown(value))
	}
	return ""
}

func instant(value string) string {
	if _, err := time.Parse(time.RFC3339, value); err != nil {
		return fmt.Sprintf("is %s: set it to a time with its zone (RFC 3339)", shown(value))
	}
	return ""
}

func zone(value string) string {
	if _, err := time.LoadLocation(value); err != nil {
		return fmt.Sprintf("is %s: set it to the name of a time zone", shown(value))
	}
	return ""
}

func secret(value string) string {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "holds a blank or a character that is not ASCII: set it to the token alone"
	}
	return ""
}

var hexadecimal = regexp.MustCompile(`^[0-9a-fA-F]+$`)

func key(value string) string {
	if !hexadecimal.MatchString(value) {
		return "holds something other than the digits 0 to 9 and a to f: set it to the API key alone"
	}
	return ""
}

// text is what is put into statements of the transform processor between quotes.
func text(value string) string {
	if strings.ContainsAny(value, `"\`) {
		return `holds a quote or a backslash: set it to text without " and \`
	}
	return ""
}

func web(value string) string {
	parsed, err := url.Parse(value)
	if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || !named(parsed.Hostname()) || !numbered(parsed) {
		return "is not a URL: set it to an address that begins with https:// or http://"
	}
	return ""
}

// address is a URL, or host:port as the Datadog Agent takes it for logs.
func address(value string) string {
	if strings.Contains(value, "://") {
		return web(value)
	}
	parsed, err := url.Parse("https://" + value)
	if err != nil || parsed.Port() == "" || parsed.Path != "" || !named(parsed.Hostname()) || !numbered(parsed) {
		return "is neither a URL nor host:port: set it to an address that begins with https:// or http://"
	}
	return ""
}

func numbered(parsed *url.URL) bool {
	return parsed.Port() == "" && !strings.HasSuffix(parsed.Host, ":") || port(variable{}, parsed.Port(), nil) == ""
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?$`)

func named(value string) bool { return net.ParseIP(value) != nil || hostName.MatchString(value) }

func host(value string) string {
	bare := strings.TrimSuffix(strings.TrimPrefix(value, "["), "]")
	switch address := net.ParseIP(bare); {
	case address != nil && strings.Contains(bare, ":") && bare == value:
		return fmt.Sprintf("is %s: an IPv6 address needs brackets here: set it to [%s]", shown(value), bare)
	case address != nil && (bare == value || value == "["+bare+"]" && strings.Contains(bare, ":")):
		return ""
	case hostName.MatchString(value):
		return ""
	}
	return "is not a host: set it to a name or an address, without port and without http://"
}

func site(value string) string {
	if !hostName.MatchString(value) || !strings.Contains(value, ".") {
		return "is not a Datadog site: set it to the name alone, without https://"
	}
	return ""
}

func folder(value string) string {
	if strings.HasPrefix(value, "~") {
		return "begins with ~, which only a shell knows: set it to the whole path"
	}
	return ""
}

func file(v variable, value string, getenv func(string) string) string {
	if fault := plain(folder)(v, value, getenv); fault != "" {
		return fault
	}
	content, err := os.ReadFile(value)
	if err != nil {
		reason := err
		if failed, ok := err.(*os.PathError); ok {
			reason = failed.Err
		}
		return fmt.Sprintf("names a file that cannot be read (%s): set it to the path of one that user %d may read", reason, os.Getuid())
	}
	if block, _ := pem.Decode(content); block == nil {
		return "names a file that is not PEM, the one with -----BEGIN …-----: set it to the path of such a file"
	}
	return ""
}

func regex(_ variable, value string, _ func(string) string) string {
	compiled, err := regexp.Compile(value)
	if err != nil {
		return "is not a regular expression (RE2): set it to one"
	}
	if compiled.MatchString("") {
		return "matches where there is nothing, so everything would be masked: set it to an expression that needs a character"
	}
	return ""
}

// patterns is a list of glob patterns, joined by commas or written as YAML.
func patterns(_ variable, value string, _ func(string) string) string {
	const wrong = "is no list of patterns: set it to paths joined by commas"
	parsed, err := confmap.NewRetrievedFromYAML([]byte(value))
	if err != nil {
		return wrong
	}
	raw, err := parsed.AsRaw()
	if err != nil {
		return wrong
	}
	found := strings.Split(value, ",")
	switch list := raw.(type) {
	case []any:
		found = nil
		for _, each := range list {
			found = append(found, fmt.Sprint(each))
		}
	case map[string]any:
		return wrong
	}
	for _, each := range found {
		if _, err := path.Match(each, ""); err != nil || quoted(each) || strings.HasPrefix(each, "~") {
			return wrong
		}
	}
	return ""
}

// headers is a YAML map of texts.
func headers(_ variable, value string, _ func(string) string) string {
	const wrong = "is no map of headers: set it to names with values in braces"
	parsed, err := confmap.NewRetrievedFromYAML([]byte(value))
	if err != nil {
		return wrong
	}
	raw, err := parsed.AsRaw()
	if err != nil {
		return wrong
	}
	pairs, isMap := raw.(map[string]any)
	if !isMap {
		return wrong
	}
	for name, each := range pairs {
		switch each.(type) {
		case map[string]any, []any, nil:
			return wrong
		}
		if strings.ContainsAny(name+fmt.Sprint(each), "\r\n") {
			return wrong
		}
	}
	return ""
}
