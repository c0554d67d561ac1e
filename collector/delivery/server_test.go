package delivery

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestARelayDividesWhatItsIntakeRefuses(t *testing.T) {
	var taken []string
	s := &vendor{answer: func(path string, body []byte) (int, string) {
		if path != "/api/v2/logs" {
			t.Errorf("sent to %s", path)
		}
		if len(body) > 500 {
			return http.StatusRequestEntityTooLarge, ""
		}
		var found []struct{ Message string }
		if err := json.Unmarshal(body, &found); err != nil {
			t.Error(err)
		}
		for _, each := range found {
			taken = append(taken, each.Message)
		}
		return http.StatusAccepted, "{}"
	}}
	c, logs := transportTo(t, s, "datadog", 1_000)
	c.config.Relay.Intake = "http://intake/"
	var entries []string
	for i := range 50 {
		entries = append(entries, fmt.Sprintf(`{"message":"%d"}`, i))
	}
	entries[20] = fmt.Sprintf(`{"message":%q,"metaflow.run.id":"12"}`, strings.Repeat("y", 600))
	compressed := new(bytes.Buffer)
	writer := gzip.NewWriter(compressed)
	_, _ = writer.Write([]byte("[" + strings.Join(entries, ",") + "]"))
	_ = writer.Close()
	request := httptest.NewRequest(http.MethodPost, "/api/v2/logs", compressed)
	request.Header.Set("Content-Encoding", "gzip")
	answer := httptest.NewRecorder()
	newServer(c).ServeHTTP(answer, request)
	if answer.Code != http.StatusAccepted || len(taken) != 49 || logs.Len() != 1 {
		t.Errorf("%d, %d taken, %d errors", answer.Code, len(taken), logs.Len())
	}
	if which := fmt.Sprint(logs.All()[0].ContextMap()["which"]); !strings.Contains(which, "metaflow.run.id 12") {
		t.Errorf("named %s", which)
	}
}

// What the exporter retries is retried; a permanent failure is an answer that it treats as permanent.
func TestARelayTellsItsExporterWhatIsFinal(t *testing.T) {
	for status := 300; status < 600; status++ {
		c, _ := transportTo(t, &vendor{answer: func(string, []byte) (int, string) { return status, "" }}, "datadog", 1_000)
		answer := httptest.NewRecorder()
		newServer(c).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/api/v2/logs", strings.NewReader(`[{"message":"a"}]`)))
		want := http.StatusBadRequest
		switch {
		case status == http.StatusTooManyRequests:
			want = status
		case mayPass(status):
			want = http.StatusServiceUnavailable
		case tooLarge(status), status == http.StatusBadRequest:
			// Given up by itself.
			want = http.StatusAccepted
		}
		if answer.Code != want {
			t.Errorf("%d: got %d, want %d", status, answer.Code, want)
		}
	}
}
