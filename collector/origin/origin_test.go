package origin

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.opentelemetry.io/collector/consumer/consumertest"
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
	o := &origins{read: read, known: map[string]found{}}
	if got := o.of(path); got.flow != "" {
		t.Errorf("got %v", got)
	}
	if err := os.WriteFile(path, []byte(output), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := o.of(path); got.flow != "FanoutFlow" {
		t.Errorf("got %v", got)
	}
}
