// Package origin is a processor that says of which flow and run the lines of a file are.
//
// What `python flow.py run 2>&1 | tee run.log` writes names the flow once, in its first line, and the run
// in its third; the lines themselves say at most run, step and task. The processor sees in the
// attribute log.file.path of a record where it was read, looks the names up in the beginning of that
// file, and puts them on the record where they are not known yet. It keeps no state that a restart
// could lose.
package origin

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
	// known holds so many files at most, then it is begun anew: a file costs one read again.
	most = 10_000
)

// NewFactory is what the collector's generated main.go calls.
func NewFactory() processor.Factory {
	return processor.NewFactory(
		component.MustNewType("metaflow_origin"),
		func() component.Config { return &struct{}{} },
		processor.WithLogs(create, component.StabilityLevelBeta))
}

func create(ctx context.Context, set processor.Settings, cfg component.Config, next consumer.Logs) (processor.Logs, error) {
	o := &origins{read: read, known: map[string]found{}}
	return processorhelper.NewLogs(ctx, set, cfg, next, o.process,
		processorhelper.WithCapabilities(consumer.Capabilities{MutatesData: true}))
}

type origins struct {
	read  func(path string) (found, error)
	mutex sync.Mutex
	known map[string]found
}

func (o *origins) process(_ context.Context, logs plog.Logs) (plog.Logs, error) {
	for _, resource := range logs.ResourceLogs().All() {
		for _, scope := range resource.ScopeLogs().All() {
			for _, record := range scope.LogRecords().All() {
				o.name(record.Attributes())
			}
		}
	}
	return logs, nil
}

func (o *origins) name(attributes pcommon.Map) {
	path, ok := attributes.Get(pathKey)
	if !ok || has(attributes, flowKey) && has(attributes, runKey) {
		return
	}
	f := o.of(path.Str())
	put(attributes, flowKey, f.flow)
	put(attributes, runKey, f.run)
}

// of remembers only what is complete: the run's id may not be written yet.
func (o *origins) of(path string) found {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if f, ok := o.known[path]; ok {
		return f
	}
	f, err := o.read(path)
	if err == nil && f.flow != "" && f.run != "" {
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
