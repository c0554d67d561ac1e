// Package runlookup is a processor that adds the flow and run id to log lines read from a file.
//
// What `python flow.py run 2>&1 | tee run.log` writes names the flow once, in its first line, and the run
// in its third; the lines themselves contain at most run, step and task. The processor takes from the
// attribute log.file.path of a record where it was read, looks the names up in the beginning of that
// file, and puts them on the record where they are not known yet. It keeps no state that a restart
// could lose.
package runlookup

import (
	"context"
	"sync"
	// Metaflow prints local time without its zone, and the image holds no zones.
	_ "time/tzdata"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/processorhelper"
)

const (
	pathKey = "log.file.path"
	flowKey = "metaflow.flow.name"
	runKey  = "metaflow.run.id"
	// The most files that known holds. Beyond that it is cleared, and each file has to be read once more.
	most = 10_000
)

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("metaflow_run_lookup"),
		func() component.Config { return &struct{}{} },
		processor.WithLogs(create, component.StabilityLevelBeta))
}

func create(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
	o := newOrigins()
	return processorhelper.NewLogs(ctx, set, cfg, next, o.process,
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}))
}

type origins struct {
	mutex sync.Mutex
	known map[string]file
}

// file is what is known of one, and of its contents before it was overwritten: lines of those may still come.
type file struct{ now, before found }

func newOrigins() *origins { return &origins{known: map[string]file{}} }

func (o *origins) process(_ context.Context, logs plog.Logs) (plog.Logs, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	// A file is looked at once for all that came of it together.
	seen := map[string]file{}
	for _, resource := range logs.ResourceLogs().All() {
		for _, scope := range resource.ScopeLogs().All() {
			for _, record := range scope.LogRecords().All() {
				o.name(record.Attributes(), seen)
			}
		}
	}
	return logs, nil
}

func (o *origins) name(attributes pcommon.Map, seen map[string]file) {
	path, ok := attributes.Get(pathKey)
	if !ok || has(attributes, flowKey) && has(attributes, runKey) {
		return
	}
	f, ok := seen[path.Str()]
	if !ok {
		f = o.of(path.Str())
		seen[path.Str()] = f
	}
	of := f.now
	if run, known := attributes.Get(runKey); known && run.Str() != "" && run.Str() == f.before.run {
		of = f.before
	}
	put(attributes, flowKey, of.flow)
	put(attributes, runKey, of.run)
}

// of remembers complete results only: the run's id may not be written yet.
func (o *origins) of(path string) file {
	f, ok := o.known[path]
	if ok && begins(path, f.now.text) {
		return f
	}
	now, err := read(path)
	if err != nil {
		return file{}
	}
	f = file{now: now, before: f.now}
	if now.isComplete() {
		if len(o.known) >= most {
			clear(o.known)
		}
		o.known[path] = f
	}
	return f
}

func has(attributes pcommon.Map, key string) bool {
	value, ok := attributes.Get(key)
	return ok && value.Str() != ""
}

func put(attributes pcommon.Map, key, value string) {
	if value != "" && !has(attributes, key) {
		attributes.PutStr(key, value)
	}
}
