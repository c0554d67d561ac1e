// Package storage is the collector's file_storage extension, in which a damaged file or a full volume costs nothing but itself.
//
// It is upstream's extension with the same configuration and the same files, and three additions:
//
//   - A folder that cannot be written, or that another collector uses, stops the start with one line.
//   - A file that cannot be read, which makes upstream's extension crash at every start, is renamed.
//   - On a volume that others have filled, what is in a queue is still read from it: upstream's queue treats a
//     failure to record that an item is being sent as a failure to read it, and drops the item.
package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"go.etcd.io/bbolt"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"
)

// Config is upstream's; the queues of the shipped configuration are in the folder that COLLECTOR_QUEUE_DIR names.
type Config filestorage.Config

func (c *Config) upstream() *filestorage.Config { return (*filestorage.Config)(c) }

// NewFactory is what the collector's generated main.go calls.
func NewFactory() extension.Factory {
	upstream := filestorage.NewFactory()
	return extension.NewFactory(
		upstream.Type(),
		func() component.Config { return (*Config)(upstream.CreateDefaultConfig().(*filestorage.Config)) },
		func(ctx context.Context, set extension.Settings, cfg component.Config) (extension.Extension, error) {
			c := cfg.(*Config)
			if err := setDamagedAside(c.Directory, set.Logger); err != nil {
				return nil, err
			}
			created, err := upstream.Create(ctx, set, c.upstream())
			if err != nil {
				return nil, err
			}
			return files{created.(storage.Extension), c.Directory, set.Logger}, nil
		},
		component.StabilityLevelBeta)
}

// Validate finds out before the start whether the folder can be used.
func (c *Config) Validate() error {
	if err := c.upstream().Validate(); err != nil {
		return unusable(c.Directory, err)
	}
	if c.CreateDirectory {
		if err := os.MkdirAll(c.Directory, 0o750); err != nil {
			return unusable(c.Directory, err)
		}
	}
	probe, err := os.CreateTemp(c.Directory, ".writable-")
	if err != nil {
		return unusable(c.Directory, err)
	}
	_ = probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		return unusable(c.Directory, err)
	}
	// A check of the configuration may run beside the collector that uses the folder.
	if slices.Contains(os.Args[1:], "validate") {
		return nil
	}
	for _, path := range stored(c.Directory) {
		if err := lockable(path); errors.Is(err, syscall.EWOULDBLOCK) {
			return inUse(c.Directory)
		} else if err != nil {
			return unusable(c.Directory, err)
		}
	}
	return nil
}

func unusable(folder string, err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("the queues cannot be kept in %s (%w): set COLLECTOR_QUEUE_DIR to a folder on a local disk "+
		"that user %d may write", folder, err, os.Getuid())
}

func inUse(folder string) error {
	return fmt.Errorf("another collector keeps its queues in %s: stop it, or set COLLECTOR_QUEUE_DIR to another folder", folder)
}

// lockable returns an error if another process holds the file's lock.
func lockable(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		// Such as a folder of that name, which is renamed later.
		if errors.Is(err, os.ErrPermission) {
			return err
		}
		return nil
	}
	defer file.Close()
	return syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

// stored returns the paths of what components keep in a folder, KIND_TYPE_NAME each.
func stored(folder string) []string {
	var found []string
	for _, kind := range []string{"receiver", "processor", "exporter", "connector", "extension", "other"} {
		paths, _ := filepath.Glob(filepath.Join(escaped(folder), kind+"_*"))
		found = append(found, paths...)
	}
	return slices.DeleteFunc(found, func(path string) bool {
		return strings.Contains(filepath.Base(path), setAside) || strings.HasSuffix(path, unfinished)
	})
}

// escaped is a path as a pattern that nothing but this path matches.
func escaped(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// files hands out upstream's clients, each with a way around a full volume.
type files struct {
	storage.Extension
	folder string
	logger *zap.Logger
}

func (f files) GetClient(ctx context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	opened, err := f.Extension.GetClient(ctx, kind, id, name)
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, inUse(f.folder)
	}
	if err != nil {
		return nil, unusable(f.folder, err)
	}
	c := client{opened, f.logger}
	if kind == component.KindReceiver {
		return &positions{Client: c, known: map[string][]byte{}}, nil
	}
	return c, nil
}

type client struct {
	storage.Client
	logger *zap.Logger
}

// Batch carries out all operations, or, where there is no room to write, those that read. A queue notes what it
// takes out while it reads it: without the note, it is sent again after a restart.
func (c client) Batch(ctx context.Context, ops ...*storage.Operation) error {
	err := c.Client.Batch(ctx, ops...)
	if !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, syscall.EDQUOT) {
		return err
	}
	reads := slices.DeleteFunc(slices.Clone(ops), func(op *storage.Operation) bool { return op.Type != storage.Get })
	if len(reads) == 0 {
		return err
	}
	c.logger.Warn("the queues' volume is full: records that are being delivered may be delivered again after a restart", zap.Error(err))
	return c.Client.Batch(ctx, reads...)
}
