package storage

import (
	"context"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/extension/xextension/storage"
)

// positions remembers what a receiver keeps, which is little: filelog looks, twice a second, through all that it noted
// of files which are away (polls_to_archive), and each look would be a transaction.
type positions struct {
	storage.Client
	mutex sync.Mutex
	known map[string][]byte
}

const archiveIndex = "knownFilesArchiveIndex"

func (p *positions) Get(ctx context.Context, key string) ([]byte, error) {
	op := storage.GetOperation(key)
	err := p.Batch(ctx, op)
	if op.Value == nil && strings.HasSuffix(key, archiveIndex) {
		// filelog reports an error where there is none yet, at its first start.
		return []byte("0"), err
	}
	return op.Value, err
}

func (p *positions) Set(ctx context.Context, key string, value []byte) error {
	return p.Batch(ctx, storage.SetOperation(key, value))
}

func (p *positions) Delete(ctx context.Context, key string) error {
	return p.Batch(ctx, storage.DeleteOperation(key))
}

// Batch reads only unknown keys from the file, and writes everything through.
func (p *positions) Batch(ctx context.Context, ops ...*storage.Operation) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if !slices.ContainsFunc(ops, func(op *storage.Operation) bool {
		_, known := p.known[op.Key]
		return op.Type != storage.Get || !known
	}) {
		for _, op := range ops {
			op.Value = slices.Clone(p.known[op.Key])
		}
		return nil
	}
	err := p.Client.Batch(ctx, ops...)
	for _, op := range ops {
		switch {
		case err != nil:
			delete(p.known, op.Key)
		case op.Type == storage.Delete:
			p.known[op.Key] = nil
		default:
			p.known[op.Key] = slices.Clone(op.Value)
		}
	}
	return err
}
