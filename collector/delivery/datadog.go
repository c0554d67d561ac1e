package delivery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// entries is the body of a request to Datadog's intake of logs: a JSON list of objects (API reference, Send logs).
type entries struct{ events }

func divideDatadog(_ string, body []byte) (parcel, error) {
	var found []json.RawMessage
	if json.Unmarshal(body, &found) != nil {
		// What the exporter asks whether the intake is there with.
		found = []json.RawMessage{body}
	}
	return entries{found}, nil
}

func (e entries) body(records []int) ([]byte, error) {
	parts := make([][]byte, 0, len(records))
	for _, record := range records {
		parts = append(parts, e.events[record])
	}
	return bytes.Join([][]byte{[]byte("["), bytes.Join(parts, []byte(",")), []byte("]")}, nil), nil
}

func (entries) groups([]int, refusal) [][]int { return nil }

func (entries) refused(status int, _ []byte) refusal {
	reason := fmt.Sprintf("%d %s", status, http.StatusText(status))
	switch {
	case tooLarge(status), status == http.StatusBadRequest:
		return refusal{kind: divide, reason: reason}
	case mayPass(status):
		return refusal{kind: again, reason: reason}
	}
	return refusal{kind: final, reason: reason}
}

func (e entries) name(record int) string {
	var fields map[string]any
	_ = json.Unmarshal(e.events[record], &fields)
	// The exporter writes the record as JSON into the message.
	if text, ok := fields["message"].(string); ok {
		_ = json.Unmarshal([]byte(text), &fields)
	}
	parts := []string{fmt.Sprintf("log record of %d bytes", len(e.events[record]))}
	for _, key := range []string{"@timestamp", "hostname", "metaflow.flow.name", "metaflow.run.id", "metaflow.step.name", "log.record.uid"} {
		if value, ok := fields[key]; ok {
			parts = append(parts, fmt.Sprintf("%s %v", key, value))
		}
	}
	return strings.Join(parts, " ")
}
