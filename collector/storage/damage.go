package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"
)

const (
	setAside   = ".damaged-"
	unfinished = ".fresh"
	// fileToCheck is set, to a list of paths, for a child process that does nothing but check those.
	fileToCheck = "OTELCOL_METAFLOW_CHECK_FILES"
	// patience is how long a check of all files may take, and how much longer for each MiB of them.
	patience       = 10 * time.Second
	patiencePerMiB = 50 * time.Millisecond
)

// A damaged file ends the process that reads it in ways that cannot be caught (a fault of mapped memory, a panic
// in a goroutine of the library, an endless recursion), so a child reads it first.
func init() {
	list, isChild := os.LookupEnv(fileToCheck)
	if !isChild {
		return
	}
	debug.SetMaxStack(64 << 20)
	for _, path := range filepath.SplitList(list) {
		fmt.Println("?", path)
		if err := check(path); err != nil {
			fmt.Println("!", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("=")
		}
	}
	os.Exit(0)
}

// setDamagedAside renames every file of a folder that cannot be read.
func setDamagedAside(folder string, logger *zap.Logger) error {
	var files []string
	for _, path := range stored(folder) {
		if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
			if err := move(path, "it is no file", logger); err != nil {
				return err
			}
		} else if err == nil {
			files = append(files, path)
		}
	}
	for len(files) > 0 {
		damaged, next, err := checkInChild(files)
		if err != nil {
			return err
		}
		for path, why := range damaged {
			if err := move(path, why, logger); err != nil {
				return err
			}
		}
		files = files[next:]
	}
	return nil
}

func move(path, why string, logger *zap.Logger) error {
	aside := path + setAside + time.Now().UTC().Format("20060102T150405.000Z")
	if err := os.Rename(path, aside); err != nil {
		return fmt.Errorf("%s is damaged, and cannot be renamed: %w", path, err)
	}
	logger.Error("renamed a damaged queue file; its contents will not be delivered",
		zap.String("file", path), zap.String("renamed_to", aside), zap.String("reason", why))
	return nil
}

// checkInChild returns which files are damaged and why, and how many it got through: it ends at the first
// that a process dies of.
func checkInChild(files []string) (map[string]string, int, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeFor(files))
	defer cancel()
	child := exec.CommandContext(ctx, self)
	child.Env = append(os.Environ(), fileToCheck+"="+strings.Join(files, string(filepath.ListSeparator)))
	output, err := child.StdoutPipe()
	if err != nil {
		return nil, 0, err
	}
	if err := child.Start(); err != nil {
		return nil, 0, fmt.Errorf("the queues' files cannot be checked: %w", err)
	}
	damaged := make(map[string]string)
	checked, checking := 0, false
	for lines := bufio.NewScanner(output); lines.Scan(); {
		switch line := lines.Text(); {
		case strings.HasPrefix(line, "? "):
			checking = true
		case strings.HasPrefix(line, "! "):
			damaged[files[checked]] = line[len("! "):]
			checked, checking = checked+1, false
		case line == "=":
			checked, checking = checked+1, false
		}
	}
	err = child.Wait()
	if checking {
		damaged[files[checked]] = fmt.Sprintf("reading it ends a process: %v", err)
		return damaged, checked + 1, nil
	}
	// What a damaged file left behind in it may end it a little later: the next one checks the rest.
	if checked == 0 {
		return nil, 0, fmt.Errorf("the queues' files cannot be checked: %w", errors.Join(errors.New("no answer"), err))
	}
	return damaged, checked, nil
}

func timeFor(files []string) time.Duration {
	allowed := patience
	for _, path := range files {
		if info, err := os.Stat(path); err == nil {
			allowed += time.Duration(info.Size()>>20) * patiencePerMiB
		}
	}
	return allowed
}

// check reads a file and puts a fresh copy of what it holds in its place: not all damage shows in reading, some only
// while the owner writes to pages that are not what they seem.
func check(path string) error {
	fresh := path + unfinished
	os.Remove(fresh) // Of a check that was killed.
	defer os.Remove(fresh)
	err := read(path, func(db *bbolt.DB) error { return copyTo(db, fresh) })
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return nil // The volume is too full for a copy, and the file could be read.
	case err != nil || !exists(fresh):
		return err
	}
	return os.Rename(fresh, path)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func copyTo(from *bbolt.DB, path string) error {
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	return errors.Join(bbolt.Compact(to, from, 1<<20), to.Sync(), to.Close())
}

// read reads all of a file but the inside of its values, and hands it to then.
func read(path string, then func(*bbolt.DB) error) (err error) {
	defer func() {
		if found := recover(); found != nil {
			err = fmt.Errorf("%v", found)
		}
	}()
	debug.SetPanicOnFault(true)
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 {
		return err
	}
	db, err := bbolt.Open(path, 0, &bbolt.Options{Timeout: time.Second, NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil // Another collector's: the start will report that.
	}
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("it is cut short: %d bytes of %d", info.Size(), tx.Size())
		}
		for problem := range tx.Check() {
			return problem
		}
		return tx.ForEach(func(_ []byte, bucket *bbolt.Bucket) error {
			return bucket.ForEach(func(key, value []byte) error {
				if len(key) == 0 {
					return errors.New("a key is empty")
				}
				touched += key[len(key)-1]
				if len(value) > 0 {
					touched += value[len(value)-1]
				}
				return nil
			})
		})
	}); err != nil {
		return err
	}
	return then(db)
}

// touched keeps the compiler from optimizing the reads away.
var touched byte
