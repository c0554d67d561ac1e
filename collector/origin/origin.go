package origin

import (
	"bytes"
	"errors"
	"io"
	"os"
	"regexp"
)

// found is what the beginning of a file says of all its lines.
type found struct{ flow, run string }

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
	return found{flow: group(executing, text), run: group(starting, text)}, nil
}

func group(pattern *regexp.Regexp, text []byte) string {
	if match := pattern.FindSubmatch(text); match != nil {
		return string(match[1])
	}
	return ""
}
