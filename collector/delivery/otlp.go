package delivery

import (
	"fmt"
	"net/http"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
)

// place is where a record stands in an OTLP request: its resource, scope and number.
type place struct{ resource, scope, record int }

// otlp is what the parcels of all three signals have in common.
type otlp struct{ places []place }

func (o otlp) len() int { return len(o.places) }

func (otlp) groups([]int, refusal) [][]int { return nil }

func (otlp) refused(status int, text []byte) refusal {
	reason := fmt.Sprintf("%d %s", status, http.StatusText(status))
	// "The response body for all HTTP 4xx and HTTP 5xx responses MUST be a Protobuf-encoded Status message"
	// (OTLP specification, Failures); what a proxy answers is not.
	var described spb.Status
	if proto.Unmarshal(text, &described) == nil && described.GetMessage() != "" {
		reason += ": " + described.GetMessage()
	}
	switch {
	case tooLarge(status), status == http.StatusBadRequest:
		return refusal{kind: divide, reason: reason}
	case mayPass(status):
		return refusal{kind: again, reason: reason}
	}
	return refusal{kind: final, reason: reason}
}

func describe(resource pcommon.Resource, what string, size int) string {
	parts := []string{what}
	for _, key := range []string{"metaflow.flow.name", "metaflow.run.id", "metaflow.step.name"} {
		if value, ok := resource.Attributes().Get(key); ok {
			parts = append(parts, key+" "+value.AsString())
		}
	}
	return strings.Join(append(parts, fmt.Sprintf("%d bytes", size)), " ")
}

func divideOTLP(path string, body []byte) (parcel, error) {
	switch {
	case strings.HasSuffix(path, "/logs"):
		request := plogotlp.NewExportRequest()
		if err := request.UnmarshalProto(body); err != nil {
			return nil, err
		}
		p := logParcel{data: request.Logs()}
		for i, resource := range p.data.ResourceLogs().All() {
			for j, scope := range resource.ScopeLogs().All() {
				for k := range scope.LogRecords().Len() {
					p.places = append(p.places, place{i, j, k})
				}
			}
		}
		return p, nil
	case strings.HasSuffix(path, "/traces"):
		request := ptraceotlp.NewExportRequest()
		if err := request.UnmarshalProto(body); err != nil {
			return nil, err
		}
		p := traceParcel{data: request.Traces()}
		for i, resource := range p.data.ResourceSpans().All() {
			for j, scope := range resource.ScopeSpans().All() {
				for k := range scope.Spans().Len() {
					p.places = append(p.places, place{i, j, k})
				}
			}
		}
		return p, nil
	}
	request := pmetricotlp.NewExportRequest()
	if err := request.UnmarshalProto(body); err != nil {
		return nil, err
	}
	p := metricParcel{data: request.Metrics()}
	for i, resource := range p.data.ResourceMetrics().All() {
		for j, scope := range resource.ScopeMetrics().All() {
			for k := range scope.Metrics().Len() {
				p.places = append(p.places, place{i, j, k})
			}
		}
	}
	return p, nil
}

// rejectedOTLP reads what OTLP calls a partial success.
func rejectedOTLP(path string, text []byte) (int64, string) {
	switch {
	case strings.HasSuffix(path, "/logs"):
		answer := plogotlp.NewExportResponse()
		if answer.UnmarshalProto(text) == nil {
			return answer.PartialSuccess().RejectedLogRecords(), answer.PartialSuccess().ErrorMessage()
		}
	case strings.HasSuffix(path, "/traces"):
		answer := ptraceotlp.NewExportResponse()
		if answer.UnmarshalProto(text) == nil {
			return answer.PartialSuccess().RejectedSpans(), answer.PartialSuccess().ErrorMessage()
		}
	default:
		answer := pmetricotlp.NewExportResponse()
		if answer.UnmarshalProto(text) == nil {
			return answer.PartialSuccess().RejectedDataPoints(), answer.PartialSuccess().ErrorMessage()
		}
	}
	return 0, ""
}

type logParcel struct {
	otlp
	data plog.Logs
}

func (p logParcel) body(records []int) ([]byte, error) {
	part := plog.NewLogs()
	at := place{-1, -1, -1}
	var resource plog.ResourceLogs
	var scope plog.ScopeLogs
	for _, record := range records {
		to := p.places[record]
		from := p.data.ResourceLogs().At(to.resource)
		if to.resource != at.resource {
			resource = part.ResourceLogs().AppendEmpty()
			from.Resource().CopyTo(resource.Resource())
			resource.SetSchemaUrl(from.SchemaUrl())
		}
		if to.resource != at.resource || to.scope != at.scope {
			scope = resource.ScopeLogs().AppendEmpty()
			from.ScopeLogs().At(to.scope).Scope().CopyTo(scope.Scope())
			scope.SetSchemaUrl(from.ScopeLogs().At(to.scope).SchemaUrl())
		}
		from.ScopeLogs().At(to.scope).LogRecords().At(to.record).CopyTo(scope.LogRecords().AppendEmpty())
		at = to
	}
	return plogotlp.NewExportRequestFromLogs(part).MarshalProto()
}

func (p logParcel) name(record int) string {
	at := p.places[record]
	resource := p.data.ResourceLogs().At(at.resource)
	body, _ := p.body([]int{record})
	found := resource.ScopeLogs().At(at.scope).LogRecords().At(at.record)
	return describe(resource.Resource(), "log record of "+found.Timestamp().AsTime().Format("2006-01-02T15:04:05.000Z"), len(body))
}

type traceParcel struct {
	otlp
	data ptrace.Traces
}

func (p traceParcel) body(records []int) ([]byte, error) {
	part := ptrace.NewTraces()
	at := place{-1, -1, -1}
	var resource ptrace.ResourceSpans
	var scope ptrace.ScopeSpans
	for _, record := range records {
		to := p.places[record]
		from := p.data.ResourceSpans().At(to.resource)
		if to.resource != at.resource {
			resource = part.ResourceSpans().AppendEmpty()
			from.Resource().CopyTo(resource.Resource())
			resource.SetSchemaUrl(from.SchemaUrl())
		}
		if to.resource != at.resource || to.scope != at.scope {
			scope = resource.ScopeSpans().AppendEmpty()
			from.ScopeSpans().At(to.scope).Scope().CopyTo(scope.Scope())
			scope.SetSchemaUrl(from.ScopeSpans().At(to.scope).SchemaUrl())
		}
		from.ScopeSpans().At(to.scope).Spans().At(to.record).CopyTo(scope.Spans().AppendEmpty())
		at = to
	}
	return ptraceotlp.NewExportRequestFromTraces(part).MarshalProto()
}

func (p traceParcel) name(record int) string {
	at := p.places[record]
	resource := p.data.ResourceSpans().At(at.resource)
	body, _ := p.body([]int{record})
	span := resource.ScopeSpans().At(at.scope).Spans().At(at.record)
	return describe(resource.Resource(), fmt.Sprintf("span %s of trace %s", span.SpanID(), span.TraceID()), len(body))
}

type metricParcel struct {
	otlp
	data pmetric.Metrics
}

func (p metricParcel) body(records []int) ([]byte, error) {
	part := pmetric.NewMetrics()
	at := place{-1, -1, -1}
	var resource pmetric.ResourceMetrics
	var scope pmetric.ScopeMetrics
	for _, record := range records {
		to := p.places[record]
		from := p.data.ResourceMetrics().At(to.resource)
		if to.resource != at.resource {
			resource = part.ResourceMetrics().AppendEmpty()
			from.Resource().CopyTo(resource.Resource())
			resource.SetSchemaUrl(from.SchemaUrl())
		}
		if to.resource != at.resource || to.scope != at.scope {
			scope = resource.ScopeMetrics().AppendEmpty()
			from.ScopeMetrics().At(to.scope).Scope().CopyTo(scope.Scope())
			scope.SetSchemaUrl(from.ScopeMetrics().At(to.scope).SchemaUrl())
		}
		from.ScopeMetrics().At(to.scope).Metrics().At(to.record).CopyTo(scope.Metrics().AppendEmpty())
		at = to
	}
	return pmetricotlp.NewExportRequestFromMetrics(part).MarshalProto()
}

func (p metricParcel) name(record int) string {
	at := p.places[record]
	resource := p.data.ResourceMetrics().At(at.resource)
	body, _ := p.body([]int{record})
	return describe(resource.Resource(), "metric "+resource.ScopeMetrics().At(at.scope).Metrics().At(at.record).Name(), len(body))
}
