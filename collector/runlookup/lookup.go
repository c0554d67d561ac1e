package runlookup

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
)

// found is what the beginning of a file says of all its lines.
type found struct {
	flow, run string
	// said is the beginning up to where it says both: a file that begins otherwise is another run's.
	said []byte
}

func (f found) isComplete() bool { return f.flow != "" && f.run != "" }

// head is how much of a file is looked at, in bytes: Metaflow says both names before the first
// task starts, but warnings of imported packages may come first.
const head = 64 << 10

var (
	// Metaflow 2.19.39 executing FanoutFlow for user:ann
	executing = regexp.MustCompile(`(?m)^(?:.*\s)?Metaflow \S+ executing (\w+)`)
	// 2026-11-23 14:12:27.850 Workflow starting (run-id 1795443147847645):
	starting = regexp.MustCompile(`Workflow starting \(run-id ([^)]+)\)`)
)

// read looks at the beginning of the file at path. A file that is gone says nothing.
func read(path string) (found, error) {
	file, err := os.Open(path)
	if err != nil {
		return found{}, err
	}
	defer file.Close()
	text := make([]byte, head)
	n, err := io.ReadFull(file, text)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return found{}, err
	}
	// A name at the very end may still be being written.
	text = text[:bytes.LastIndexByte(text[:n], '\n')+1]
	flow, flowEnd := group(executing, text)
	run, runEnd := group(starting, text)
	return found{flow, run, text[:max(flowEnd, runEnd)]}, nil
}

// group returns what a pattern's group matched, and where the match ends.
func group(pattern *regexp.Regexp, text []byte) (string, int) {
	match := pattern.FindSubmatchIndex(text)
	if match == nil {
		return "", 0
	}
	return string(text[match[2]:match[3]]), match[1]
}

// begins says whether the file at path still begins so. One that is gone, or away for a while, does: what was read
// of it was.
func begins(path string, said []byte) bool {
	file, err := os.Open(path)
	if err != nil {
		return true
	}
	defer file.Close()
	text := make([]byte, len(said))
	_, err = io.ReadFull(file, text)
	return err == nil && bytes.Equal(text, said)
}
