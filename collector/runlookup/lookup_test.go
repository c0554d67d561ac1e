package runlookup

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor/processortest"
)

const output = `/site-packages/x.py:1: DeprecationWarning: Metaflow is executing things
Metaflow 2.19.39 executing FanoutFlow for user:ann
Validating your flow...
    The graph looks good!
2026-11-23 14:12:27.850 Workflow starting (run-id 1795443147847645):
2026-11-23 14:12:28.116 [1795443147847645/start/1 (pid 28459)] Metaflow 9 executing Other
`

// through returns the attributes of a record after the processor.
func through(t *testing.T, attributes map[string]string) map[string]any {
	t.Helper()
	sink := new(consumertest.LogsSink)
	factory := NewFactory()
	p, err := factory.CreateLogs(context.Background(), processortest.NewNopSettings(factory.Type()), factory.CreateDefaultConfig(), sink)
	if err != nil {
		t.Fatal(err)
	}
	logs := plog.NewLogs()
	record := logs.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	for key, value := range attributes {
		record.Attributes().PutStr(key, value)
	}
	if err := p.ConsumeLogs(context.Background(), logs); err != nil {
		t.Fatal(err)
	}
	return sink.AllLogs()[0].ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().AsRaw()
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run.log")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheBeginningOfAFileNamesFlowAndRun(t *testing.T) {
	got := through(t, map[string]string{pathKey: write(t, output)})
	if got[flowKey] != "FanoutFlow" || got[runKey] != "1795443147847645" {
		t.Errorf("got %v", got)
	}
}

func TestWhatIsKnownStays(t *testing.T) {
	got := through(t, map[string]string{pathKey: write(t, output), flowKey: "FromThePath", runKey: "7"})
	if got[flowKey] != "FromThePath" || got[runKey] != "7" {
		t.Errorf("got %v", got)
	}
}

func TestAFileThatNamesNothingOrIsGoneAddsNothing(t *testing.T) {
	for _, path := range []string{write(t, "hello\n"), write(t, ""), "/nowhere/run.log"} {
		if got := through(t, map[string]string{pathKey: path}); len(got) != 1 {
			t.Errorf("%s: got %v", path, got)
		}
	}
}

func TestANameStillBeingWrittenIsReadLater(t *testing.T) {
	path := write(t, "Metaflow 2.19.39 executing Fan")
	o := newOrigins()
	if got := o.of(path).now; got.flow != "" {
		t.Errorf("got %v", got)
	}
	if err := os.WriteFile(path, []byte(output), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := o.of(path).now; got.flow != "FanoutFlow" {
		t.Errorf("got %v", got)
	}
}

// run is what two runs in turn write into one file: tee empties it, and the inode stays.
func run(flow, id string) string {
	return "Metaflow 2.19.39 executing " + flow + " for user:ann\n2026-11-23 14:12:27.850 Workflow starting (run-id " + id + "):\n"
}

func TestAFileThatIsWrittenAnewIsAnotherRuns(t *testing.T) {
	path := write(t, run("First", "12"))
	o := newOrigins()
	for number, each := range [][2]string{{"First", "12"}, {"Second", "13"}, {"Second", "14"}, {"AFlowOfALongerName", "1795443147847645"}} {
		if err := os.WriteFile(path, []byte(run(each[0], each[1])+"a line\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := o.of(path).now; got.flow != each[0] || got.run != each[1] {
			t.Errorf("%d: got %v", number, got)
		}
	}
}

func TestLinesOfTheRunBeforeStayItsOwn(t *testing.T) {
	path := write(t, run("First", "12"))
	o := newOrigins()
	o.of(path)
	if err := os.WriteFile(path, []byte(run("Second", "13")), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, flow := range map[string]string{"12": "First", "13": "Second", "": "Second"} {
		attributes := pcommon.NewMap()
		attributes.PutStr(pathKey, path)
		attributes.PutStr(runKey, id)
		o.name(attributes, map[string]file{})
		if got, _ := attributes.Get(flowKey); got.Str() != flow {
			t.Errorf("%s: got %s", id, got.Str())
		}
	}
}

func TestAFileThatIsAwayStaysWhatItWas(t *testing.T) {
	path := write(t, run("First", "12"))
	o := newOrigins()
	o.of(path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if got := o.of(path).now; got.flow != "First" {
		t.Errorf("got %v", got)
	}
}
