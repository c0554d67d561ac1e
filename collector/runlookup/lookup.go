package runlookup

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
)

// found is what the beginning of a file contains about all its lines.
type found struct {
	flow, run string
	// text is the beginning up to where both are known: a file that begins otherwise is another run's.
	text []byte
}

func (f found) isComplete() bool { return f.flow != "" && f.run != "" }

// head is how much of a file is looked at, in bytes: Metaflow prints both names before the first
// task starts, but warnings of imported packages may come first.
const head = 64 << 10

var (
	// Metaflow 2.19.39 executing FanoutFlow for user:ann
	executing = regexp.MustCompile(`(?m)^(?:.*\s)?Metaflow \S+ executing (\w+)`)
	// 2026-11-23 14:12:27.850 Workflow starting (run-id 1795443147847645):
	starting = regexp.MustCompile(`Workflow starting \(run-id ([^)]+)\)`)
)

// read looks at the beginning of the file at path. A file that is gone is an error.
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

// begins reports whether the file at path still begins with start. One that is gone or unavailable does: what was read
// of it stays valid.
func begins(path string, start []byte) bool {
	file, err := os.Open(path)
	if err != nil {
		return true
	}
	defer file.Close()
	text := make([]byte, len(start))
	_, err = io.ReadFull(file, text)
	return err == nil && bytes.Equal(text, start)
}
