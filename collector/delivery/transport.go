package delivery

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"
)

// transport is the http.RoundTripper that delivers requests, whole or in parts.
type transport struct {
	config     *Config
	format     format
	next       http.RoundTripper
	logger     *zap.Logger
	rejections metric.Int64Counter

	mutex sync.Mutex
	// What is done with of requests that will be tried again, by the hash of their body.
	begun map[[sha256.Size]byte][]bool
}

// format of the bodies of requests and answers.
type format struct {
	divide func(path string, body []byte) (parcel, error)
	// rejected returns how many records a 2xx answer reports as rejected, and why.
	rejected func(path string, text []byte) (int64, string)
}

// parcel is the body of a request as its records, which may be sent apart.
type parcel interface {
	len() int
	// body of a request with the records that are named.
	body(records []int) ([]byte, error)
	// groups divides records into those that share a refusal of this kind, nil where nothing is known of that.
	groups(records []int, r refusal) [][]int
	// refused parses an answer other than 2xx.
	refused(status int, text []byte) refusal
	// name identifies a record without any of its content.
	name(record int) string
}

// refusal is why a request was not accepted.
type refusal struct {
	kind   kind
	reason string
	// shared: it applies to all records of a group, so one answer settles them all.
	shared bool
}

type kind int

const (
	// again: it may be accepted later.
	again kind = iota
	// divide: a part of it may be accepted.
	divide
	// final: none of it will be accepted.
	final
)

// tooLarge reports whether the server rejects the size of the request.
func tooLarge(status int) bool { return status == http.StatusRequestEntityTooLarge }

// mayPass reports whether the same request may be accepted later. What is not here is final: a wrong key, address,
// method, or a redirection, of which a client makes a GET.
func mayPass(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= http.StatusInternalServerError
}

// RoundTrip returns 200 when every record was accepted or dropped as rejected, a permanent error when none of the
// rest will be accepted, and otherwise what the exporter retries.
func (c *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body == nil || request.Method != http.MethodPost {
		return c.next.RoundTrip(request)
	}
	body, err := io.ReadAll(request.Body)
	_ = request.Body.Close()
	if err != nil {
		return nil, err
	}
	d := &delivery{transport: c, request: request, whole: body, dropped: map[string][]int{}}
	if len(body) <= c.config.MaxContentLength && !c.anyBegun() {
		// Nearly always it is accepted as it is, and need not be parsed.
		if d.answer, d.text, err = d.send(body); err != nil {
			return nil, err
		}
		if taken(d.answer) {
			d.rejected(d.text)
			return c.success(request), nil
		}
	}
	p, err := c.format.divide(request.URL.Path, body)
	if err != nil {
		return nil, consumererror.NewPermanent(err)
	}
	hash := sha256.Sum256(body)
	d.parcel, d.done = p, c.resume(hash, p.len())
	records := make([]int, 0, p.len())
	for i, done := range d.done {
		if !done {
			records = append(records, i)
		}
	}
	answer, err := d.deliver(records)
	d.report()
	if (answer != nil || err != nil && !consumererror.IsPermanent(err)) && slices.Contains(d.done, true) {
		c.keep(hash, d.done)
	}
	if answer != nil || err != nil {
		return answer, err
	}
	return c.success(request), nil
}

func (*transport) success(request *http.Request) *http.Response {
	return &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody, Request: request,
	}
}

func taken(answer *http.Response) bool { return answer.StatusCode >= 200 && answer.StatusCode < 300 }

func (c *transport) anyBegun() bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return len(c.begun) > 0
}

// Requests that are begun and not ended: one for each consumer of a queue; what is more is of no use any more.
const most = 100

func (c *transport) resume(hash [sha256.Size]byte, records int) []bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	done, known := c.begun[hash]
	if !known {
		return make([]bool, records)
	}
	delete(c.begun, hash)
	return done
}

func (c *transport) keep(hash [sha256.Size]byte, done []bool) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.begun == nil || len(c.begun) >= most {
		c.begun = map[[sha256.Size]byte][]bool{}
	}
	c.begun[hash] = done
}

// delivery is one request of an exporter on its way.
type delivery struct {
	*transport
	request *http.Request
	parcel  parcel
	whole   []byte
	// answer to the whole, and its text, if it was sent already.
	answer *http.Response
	text   []byte
	done   []bool
	// dropped are the records that were rejected for good, by reason.
	dropped map[string][]int
}

// deliver sends records, in parts if it must. An answer or error means that the rest is to be retried, or
// is permanently rejected (a permanent error).
func (d *delivery) deliver(records []int) (*http.Response, error) {
	if len(records) == 0 {
		return nil, nil
	}
	body := d.whole
	if len(records) < len(d.done) {
		var err error
		if body, err = d.parcel.body(records); err != nil {
			return nil, consumererror.NewPermanent(err)
		}
	}
	if len(body) > d.config.MaxContentLength && len(records) > 1 {
		return d.each(halves(records))
	}
	answer, text := d.answer, d.text
	if d.answer = nil; answer == nil {
		var err error
		if answer, text, err = d.send(body); err != nil {
			return nil, err
		}
	}
	if taken(answer) {
		d.settle(records)
		d.rejected(text)
		return nil, nil
	}
	r := d.parcel.refused(answer.StatusCode, text)
	switch {
	case r.kind == again && (answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusServiceUnavailable):
		// The answer may carry Retry-After.
		return answer, nil
	case r.kind == again:
		// Of some of these exporters think that they are final.
		return nil, fmt.Errorf("%s cannot accept requests now: %s", d.config.Destination, r.reason)
	case r.kind == final:
		return nil, d.giveUp(r)
	case len(records) == 1:
		d.drop(records, r)
		return nil, nil
	}
	if groups := d.parcel.groups(records, r); len(groups) > 1 {
		return d.each(groups)
	} else if r.shared {
		d.drop(records, r)
		return nil, nil
	}
	return d.each(halves(records))
}

// rejected reports the records that an answer lists as rejected although the request was accepted.
func (d *delivery) rejected(text []byte) {
	if count, reason := d.format.rejected(d.request.URL.Path, text); count > 0 {
		d.count(count, reason)
		d.logger.Error(fmt.Sprintf("%s accepted a request but rejected %d of its records: %s", d.config.Destination, count, reason))
	}
}

func (d *delivery) each(parts [][]int) (*http.Response, error) {
	for _, part := range parts {
		if answer, err := d.deliver(part); answer != nil || err != nil {
			return answer, err
		}
	}
	return nil, nil
}

func halves(records []int) [][]int {
	middle := len(records) / 2
	return [][]int{records[:middle], records[middle:]}
}

func (d *delivery) settle(records []int) {
	for _, record := range records {
		d.done[record] = true
	}
}

func (d *delivery) drop(records []int, r refusal) {
	d.settle(records)
	d.dropped[r.reason] = append(d.dropped[r.reason], records...)
}

// giveUp drops the remaining parts: the reason holds for them, too.
func (d *delivery) giveUp(r refusal) error {
	rest := make([]int, 0, len(d.done))
	for record, done := range d.done {
		if !done {
			rest = append(rest, record)
		}
	}
	d.drop(rest, r)
	return consumererror.NewPermanent(fmt.Errorf("%s rejects requests to %s: %s", d.config.Destination, d.request.URL.Redacted(), r.reason))
}

// How many rejected records are named one by one.
const named = 5

// report logs and counts the rejected records.
func (d *delivery) report() {
	for reason, records := range d.dropped {
		d.count(int64(len(records)), reason)
		names := make([]string, 0, named)
		for _, record := range records[:min(named, len(records))] {
			names = append(names, d.parcel.name(record))
		}
		if len(records) > named {
			names = append(names, "…")
		}
		d.logger.Error(
			fmt.Sprintf("%s rejected %d of %d records: %s", d.config.Destination, len(records), d.parcel.len(), reason),
			zap.Int("records", len(records)), zap.String("which", strings.Join(names, "; ")))
	}
}

func (d *delivery) count(records int64, reason string) {
	d.rejections.Add(context.Background(), records, metric.WithAttributes(
		attribute.String("destination", d.config.Destination), attribute.String("reason", reason)))
}

var writers = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

// How much of an answer is read, in bytes.
const enough = 64 << 10

// send returns an answer whose body is read; it may still be handed on.
func (d *delivery) send(body []byte) (*http.Response, []byte, error) {
	ctx, cancel := context.WithTimeout(d.request.Context(), d.config.Timeout)
	defer cancel()
	compressed := new(bytes.Buffer)
	writer := writers.Get().(*gzip.Writer)
	defer writers.Put(writer)
	writer.Reset(compressed)
	if _, err := writer.Write(body); err != nil {
		return nil, nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, nil, err
	}
	request := d.request.Clone(ctx)
	request.Body = io.NopCloser(bytes.NewReader(compressed.Bytes()))
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(compressed.Bytes())), nil }
	request.ContentLength = int64(compressed.Len())
	request.TransferEncoding = nil
	request.Header.Set("Content-Encoding", "gzip")
	answer, err := d.next.RoundTrip(request)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) && d.request.Context().Err() == nil {
			return nil, nil, fmt.Errorf("%s did not answer within %s", d.config.Destination, d.config.Timeout)
		}
		return nil, nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, enough))
	if err != nil && taken(answer) {
		// It was accepted; the rest of the answer is unknown.
		text = nil
	}
	answer.Body = io.NopCloser(bytes.NewReader(text))
	return answer, text, nil
}
