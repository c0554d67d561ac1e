package delivery

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// vendor answers what answer returns for an uncompressed body.
type vendor struct {
	answer   func(path string, body []byte) (int, string)
	requests int
}

func (s *vendor) RoundTrip(request *http.Request) (*http.Response, error) {
	s.requests++
	reader, err := gzip.NewReader(request.Body)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(reader)
	if err != nil {
		return nil, err
	}
	status, text := s.answer(request.URL.Path, body)
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: request}, nil
}

func transportTo(t *testing.T, s *vendor, format string, most int) (*transport, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.ErrorLevel)
	counter, err := noop.Meter{}.Int64Counter("rejected")
	if err != nil {
		t.Fatal(err)
	}
	config := &Config{Destination: "Splunk", Format: format, MaxContentLength: most, Timeout: time.Second}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	return &transport{config: config, format: formats[format], next: s, logger: zap.New(core), rejections: counter}, logs
}

func post(c *transport, path string, body []byte) (int, error) {
	request, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://splunk"+path, bytes.NewReader(body))
	answer, err := c.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	return answer.StatusCode, nil
}

// Whatever is sent, to whatever rules: what may be taken is, once, and what may not be is rejected, once.
func TestEachEventIsTakenOnceOrGivenUpOnce(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		limit, most := 200+random.IntN(2_000), 100+random.IntN(3_000)
		flapping := random.IntN(3) == 0
		taken := map[int]int{}
		s := &vendor{}
		s.answer = func(_ string, body []byte) (int, string) {
			if flapping && random.IntN(5) == 0 {
				return []int{408, 429, 500, 503, 504}[random.IntN(5)], ""
			}
			if len(body) > limit {
				return http.StatusRequestEntityTooLarge, "<html>"
			}
			events, err := divideHEC("", body)
			if err != nil {
				return http.StatusBadRequest, `{"text":"Invalid data format","code":6}`
			}
			var found []int
			for _, each := range events.(interface{ all() []event }).all() {
				switch {
				case each.Index == "nope":
					return http.StatusBadRequest, `{"text":"Incorrect index","code":7}`
				case each.Event == "":
					return http.StatusBadRequest, `{"text":"Event field cannot be blank","code":13}`
				}
				found = append(found, int(each.Time))
			}
			for _, number := range found {
				taken[number]++
			}
			return http.StatusOK, `{"text":"Success","code":0}`
		}
		c, logs := transportTo(t, s, "hec", most)
		body := new(bytes.Buffer)
		refused := map[int]bool{}
		count := random.IntN(100)
		for number := range count {
			each := event{Time: float64(number), Index: "flows", Event: strings.Repeat("x", 1+random.IntN(150))}
			switch random.IntN(12) {
			case 0:
				each.Index = "nope"
			case 1:
				each.Event = ""
			case 2:
				each.Event = strings.Repeat("x", limit)
			}
			text, _ := json.Marshal(each)
			refused[number] = each.Index == "nope" || each.Event == "" || len(text) > limit
			body.Write(text)
		}
		for {
			status, err := post(c, "/services/collector", body.Bytes())
			if consumererror.IsPermanent(err) {
				t.Fatal(err)
			}
			if err == nil && status == http.StatusOK {
				break
			}
			if !flapping {
				t.Fatalf("%d, %v", status, err)
			}
		}
		var given int64
		for _, entry := range logs.All() {
			given += entry.ContextMap()["records"].(int64)
		}
		for number := range count {
			if want := map[bool]int{true: 0, false: 1}[refused[number]]; taken[number] != want {
				t.Fatalf("%d was taken %d times, want %d", number, taken[number], want)
			}
			if refused[number] {
				given--
			}
		}
		if given != 0 {
			t.Fatalf("%d more were dropped than rejected", given)
		}
		if len(c.begun) > 0 {
			t.Fatal("something is remembered of what has ended")
		}
	}
}

type event struct {
	Time  float64 `json:"time"`
	Index string  `json:"index"`
	Event string  `json:"event"`
}

func (e events) all() []event {
	found := make([]event, len(e))
	for i, each := range e {
		_ = json.Unmarshal(each, &found[i])
	}
	return found
}

func TestOneRequestDecidesForAnIndex(t *testing.T) {
	s := &vendor{answer: func(_ string, body []byte) (int, string) {
		if bytes.Contains(body, []byte("nope")) {
			return http.StatusBadRequest, `{"text":"Incorrect index","code":7}`
		}
		return http.StatusOK, ""
	}}
	c, logs := transportTo(t, s, "hec", 1_000_000)
	body := strings.Repeat(`{"index":"flows","event":"a"}{"index":"nope","event":"b"}`, 500)
	if status, err := post(c, "/", []byte(body)); status != http.StatusOK || err != nil {
		t.Fatal(status, err)
	}
	if s.requests != 3 || logs.Len() != 1 {
		t.Errorf("%d requests, %d errors", s.requests, logs.Len())
	}
}

// What is final, and what the exporter tries again.
func TestEachAnswerIsFinalOrNot(t *testing.T) {
	for _, format := range []string{"hec", "otlp"} {
		for status := 300; status < 600; status++ {
			if status == http.StatusBadRequest || tooLarge(status) {
				continue
			}
			s := &vendor{answer: func(string, []byte) (int, string) { return status, "<html>" }}
			c, logs := transportTo(t, s, format, 1_000_000)
			body := []byte(`{"event":"a"}`)
			if format == "otlp" {
				body = logsOf("a")
			}
			got, err := post(c, "/v1/logs", body)
			final := !mayPass(status)
			if consumererror.IsPermanent(err) != final || final != (logs.Len() == 1) || got != 0 && got != http.StatusTooManyRequests && got != http.StatusServiceUnavailable {
				t.Errorf("%s %d: got %d, %v, %d errors", format, status, got, err, logs.Len())
			}
			if s.requests != 1 {
				t.Errorf("%s %d: %d requests", format, status, s.requests)
			}
		}
	}
}

func logsOf(bodies ...string) []byte {
	data := plog.NewLogs()
	for i, body := range bodies {
		if i%3 == 0 {
			data.ResourceLogs().AppendEmpty().Resource().Attributes().PutInt("resource", int64(i))
			data.ResourceLogs().At(i / 3).ScopeLogs().AppendEmpty()
		}
		data.ResourceLogs().At(i / 3).ScopeLogs().At(0).LogRecords().AppendEmpty().Body().SetStr(body)
	}
	text, _ := plogotlp.NewExportRequestFromLogs(data).MarshalProto()
	return text
}

func TestOTLPIsDividedByBytes(t *testing.T) {
	var taken []string
	s := &vendor{answer: func(_ string, body []byte) (int, string) {
		if len(body) > 500 {
			return http.StatusRequestEntityTooLarge, ""
		}
		request := plogotlp.NewExportRequest()
		if err := request.UnmarshalProto(body); err != nil {
			t.Fatal(err)
		}
		for _, resource := range request.Logs().ResourceLogs().All() {
			if resource.Resource().Attributes().Len() != 1 {
				t.Error("without its resource")
			}
			for _, record := range resource.ScopeLogs().At(0).LogRecords().All() {
				taken = append(taken, record.Body().Str())
			}
		}
		return http.StatusOK, ""
	}}
	for _, most := range []int{300, 1_000, 1_000_000} {
		taken = nil
		c, logs := transportTo(t, s, "otlp", most)
		var bodies []string
		for i := range 50 {
			bodies = append(bodies, fmt.Sprintf("%d %s", i, strings.Repeat("x", 50)))
		}
		bodies[20] = strings.Repeat("y", 600)
		if status, err := post(c, "/v1/logs", logsOf(bodies...)); status != http.StatusOK || err != nil {
			t.Fatal(status, err)
		}
		want := append(bodies[:20:20], bodies[21:]...)
		if strings.Join(taken, "\n") != strings.Join(want, "\n") || logs.Len() != 1 {
			t.Errorf("got %d records, %d errors", len(taken), logs.Len())
		}
	}
}

func TestEverySignalIsDivided(t *testing.T) {
	traces, metrics := ptrace.NewTraces(), pmetric.NewMetrics()
	spans := traces.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	points := metrics.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics()
	for i := range 10 {
		spans.AppendEmpty().SetName(fmt.Sprint("name ", i))
		points.AppendEmpty().SetName(fmt.Sprint("name ", i))
	}
	one, _ := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
	other, _ := pmetricotlp.NewExportRequestFromMetrics(metrics).MarshalProto()
	for path, body := range map[string][]byte{"/v1/traces": one, "/v1/metrics": other} {
		taken := 0
		s := &vendor{answer: func(_ string, body []byte) (int, string) {
			if bytes.Contains(body, []byte("name 7")) {
				return http.StatusBadRequest, ""
			}
			taken += bytes.Count(body, []byte("name "))
			return http.StatusOK, ""
		}}
		c, logs := transportTo(t, s, "otlp", 1_000_000)
		if status, err := post(c, path, body); status != http.StatusOK || err != nil {
			t.Fatal(status, err)
		}
		if taken != 9 || logs.Len() != 1 {
			t.Errorf("%s: %d taken, %d errors", path, taken, logs.Len())
		}
	}
}

func TestAPartialSuccessIsReported(t *testing.T) {
	answer := plogotlp.NewExportResponse()
	answer.PartialSuccess().SetRejectedLogRecords(2)
	answer.PartialSuccess().SetErrorMessage("too old")
	text, _ := answer.MarshalProto()
	c, logs := transportTo(t, &vendor{answer: func(string, []byte) (int, string) { return http.StatusOK, string(text) }}, "otlp", 1_000_000)
	if status, err := post(c, "/v1/logs", logsOf("a", "b", "c")); status != http.StatusOK || err != nil {
		t.Fatal(status, err)
	}
	if logs.Len() != 1 || !strings.Contains(logs.All()[0].Message, "2 of its records: too old") {
		t.Errorf("got %v", logs.All())
	}
}
