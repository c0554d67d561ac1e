package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// fileToUse is set for a child process that does with a file what a queue does.
const fileToUse = "OTELCOL_METAFLOW_USE_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(fileToUse); path != "" {
		if err := use(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func options() *bbolt.Options {
	return &bbolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
}

// use reads, deletes and writes everything, as upstream's client would.
func use(path string) error {
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		return err
	}
	for number := range 200 {
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("default"))
			if err != nil {
				return err
			}
			key := []byte(fmt.Sprint(number))
			_ = append([]byte(nil), bucket.Get(key)...)
			if err := bucket.Delete(key); err != nil {
				return err
			}
			return bucket.Put([]byte(fmt.Sprint(1000+number)), make([]byte, number*20))
		})
		if err != nil {
			return err
		}
	}
	return db.Close()
}

// fill writes a file with so many items.
func fill(t *testing.T, path string, items int, chance *rand.Rand) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, options())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for number := range items {
		err := db.Update(func(tx *bbolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("default"))
			if err != nil {
				return err
			}
			if err := bucket.Put([]byte("qmv0"), fmt.Append(nil, number)); err != nil {
				return err
			}
			value := make([]byte, chance.Intn(6000))
			chance.Read(value)
			return bucket.Put(fmt.Append(nil, number), value)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func damage(content []byte, chance *rand.Rand) []byte {
	for range []int{1, 2, 8, 100}[chance.Intn(4)] {
		start := chance.Intn(len(content))
		if chance.Intn(2) == 0 {
			// The head of a page, which is what counts most.
			start = start/4096*4096 + chance.Intn(64)
		}
		end := min(start+[]int{1, 2, 8, 64, 4096}[chance.Intn(5)], len(content))
		for i := start; i < end; i++ {
			content[i] = []byte{0, 0xff, byte(chance.Intn(256)), content[i] ^ 1<<chance.Intn(8)}[chance.Intn(4)]
		}
	}
	if chance.Intn(4) == 0 {
		content = content[:chance.Intn(len(content))]
	}
	return content
}

// Whatever a file holds, its replacement can be used.
func TestADamagedFileIsSetAside(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	aside := 0
	rounds := 60
	if n := os.Getenv("ROUNDS"); n != "" {
		fmt.Sscan(n, &rounds)
	}
	for seed := range rounds {
		folder := t.TempDir()
		chance := rand.New(rand.NewSource(int64(seed)))
		path := filepath.Join(folder, "exporter_splunk_hec__logs")
		fill(t, path, 1+chance.Intn(150), chance)
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, damage(content, chance), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := setDamagedAside(folder, zap.NewNop()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		left, _ := filepath.Glob(path + setAside + "*")
		aside += len(left)
		child := exec.Command(self)
		child.Env = append(os.Environ(), fileToUse+"="+path)
		if output, err := child.CombinedOutput(); err != nil {
			t.Errorf("seed %d, renamed %d: %v: %.600s", seed, len(left), err, output)
		}
	}
	if aside < rounds/3 {
		t.Errorf("%d of %d files were renamed: the damage is none", aside, rounds)
	}
}

func TestAWholeFileStays(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "receiver_filelog_")
	fill(t, path, 100, rand.New(rand.NewSource(1)))
	if err := os.WriteFile(filepath.Join(folder, "exporter_empty_"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zap.DebugLevel)
	if err := setDamagedAside(folder, zap.New(core)); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(folder); len(entries) != 2 || logs.Len() != 0 {
		t.Errorf("%v, %v", entries, logs.All())
	}
}

func TestAFileIsSetAsideOnce(t *testing.T) {
	folder := t.TempDir()
	for _, name := range []string{"exporter_a_", "exporter_b_", "exporter_c_", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	core, logs := observer.New(zap.DebugLevel)
	for range 2 {
		if err := setDamagedAside(folder, zap.New(core)); err != nil {
			t.Fatal(err)
		}
	}
	entries, _ := os.ReadDir(folder)
	aside := 0
	for _, entry := range entries {
		if strings.Contains(entry.Name(), setAside) {
			aside++
		}
	}
	if len(entries) != 4 || aside != 3 || logs.Len() != 3 {
		t.Errorf("%v, %v", entries, logs.All())
	}
}

// full refuses whatever writes.
type full struct{ storage.Client }

func (full) Batch(_ context.Context, ops ...*storage.Operation) error {
	for _, op := range ops {
		if op.Type != storage.Get {
			return fmt.Errorf("write: %w", syscall.ENOSPC)
		}
		op.Value = []byte("item")
	}
	return nil
}

func TestAFullVolumeCanBeReadFrom(t *testing.T) {
	c := client{full{}, zap.NewNop()}
	get := storage.GetOperation("1")
	if err := c.Batch(context.Background(), storage.SetOperation("qmv0", nil), get); err != nil || string(get.Value) != "item" {
		t.Errorf("%v, %q", err, get.Value)
	}
	err := c.Batch(context.Background(), storage.SetOperation("qmv0", nil), storage.SetOperation("2", nil))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("what was not written is taken for written: %v", err)
	}
}
