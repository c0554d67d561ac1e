package delivery

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// formats of bodies by their name in the configuration.
var formats = map[string]format{
	"hec":     {divide: divideHEC, rejected: none},
	"datadog": {divide: divideDatadog, rejected: none},
	"otlp":    {divide: divideOTLP, rejected: rejectedOTLP},
}

func none(string, []byte) (int64, string) { return 0, "" }

// events is the body of a request to Splunk's HTTP event collector: JSON objects one after another.
type events []json.RawMessage

func divideHEC(_ string, body []byte) (parcel, error) {
	var found events
	decoder := json.NewDecoder(bytes.NewReader(body))
	for {
		var event json.RawMessage
		err := decoder.Decode(&event)
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("not what HEC takes: %w", err)
		}
		found = append(found, event)
	}
}

func (e events) len() int { return len(e) }

func (e events) body(records []int) ([]byte, error) {
	parts := make([][]byte, 0, len(records))
	for _, record := range records {
		parts = append(parts, e[record])
	}
	return bytes.Join(parts, nil), nil
}

// The JSON of an answer of HEC (Splunk documentation, "Troubleshoot HTTP Event Collector", table of
// possible error codes).
const (
	incorrectIndex     = 7
	channelMissing     = 10
	channelInvalid     = 11
	acknowledgementOff = 14
	queryStringToken   = 16
)

func (e events) refused(status int, text []byte) refusal {
	var answer struct {
		Text string `json:"text"`
		Code int    `json:"code"`
	}
	// Of a proxy's answer in HTML nothing is known but the status.
	_ = json.Unmarshal(text, &answer)
	reason := fmt.Sprintf("%d %s", status, http.StatusText(status))
	if answer.Text != "" {
		reason += fmt.Sprintf(", code %d: %s", answer.Code, answer.Text)
	}
	switch {
	case tooLarge(status):
		return refusal{kind: divide, reason: reason}
	case status == http.StatusBadRequest:
		switch answer.Code {
		case channelMissing, channelInvalid, acknowledgementOff, queryStringToken:
			return refusal{kind: final, reason: reason}
		}
		return refusal{kind: divide, reason: reason, shared: answer.Code == incorrectIndex}
	case mayPass(status):
		return refusal{kind: again, reason: reason}
	}
	return refusal{kind: final, reason: reason}
}

// metadata is what HEC takes an event's own fields from.
type metadata struct {
	Index  string          `json:"index"`
	Source string          `json:"source"`
	Time   json.Number     `json:"time"`
	Fields map[string]any  `json:"fields"`
	Event  json.RawMessage `json:"event"`
}

func (e events) metadata(record int) metadata {
	var m metadata
	_ = json.Unmarshal(e[record], &m)
	return m
}

// groups are the indexes: one request each shows which of them the token may use.
func (e events) groups(records []int, r refusal) [][]int {
	if !r.shared {
		return nil
	}
	at := map[string]int{}
	var found [][]int
	for _, record := range records {
		index := e.metadata(record).Index
		if _, known := at[index]; !known {
			at[index] = len(found)
			found = append(found, nil)
		}
		found[at[index]] = append(found[at[index]], record)
	}
	return found
}

func (e events) name(record int) string {
	m := e.metadata(record)
	parts := []string{fmt.Sprintf("index %q", m.Index), fmt.Sprintf("source %q", m.Source), "time " + m.Time.String(), fmt.Sprintf("%d bytes", len(e[record]))}
	for _, key := range []string{"metaflow.run.id", "metaflow.step.name", "log.record.uid"} {
		if value, ok := m.Fields[key]; ok {
			parts = append(parts, fmt.Sprintf("%s %v", key, value))
		}
	}
	return strings.Join(parts, " ")
}
