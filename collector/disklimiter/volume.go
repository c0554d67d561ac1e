package disklimiter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// volume is where the queues are, as all processors of this process see it together.
type volume struct {
	directory string
	reserve   int64
	limit     int64
	copies    int64
	report    func(refusing bool, why string)

	mutex    sync.Mutex
	inFlight int64
	refusing bool
	reported time.Time
}

const mebibyte = 1 << 20

// How often a refusal is logged.
const reminder = time.Minute

// admit reserves room for data of so many bytes, until done is called. An error means that there is none.
func (v *volume) admit(size int64) (done func(), err error) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	why := v.full((v.inFlight + size) * v.copies)
	if refusing := why != ""; refusing != v.refusing || refusing && time.Since(v.reported) > reminder {
		v.refusing, v.reported = refusing, time.Now()
		v.report(refusing, why)
	}
	if why != "" {
		return nil, errors.New("the queues are full: " + why)
	}
	v.inFlight += size
	return func() {
		v.mutex.Lock()
		defer v.mutex.Unlock()
		v.inFlight -= size
	}, nil
}

// full returns why so many more bytes do not fit, empty if they do.
func (v *volume) full(more int64) string {
	var stat syscall.Statfs_t
	// Without a figure nothing is refused: the queues themselves will report the error.
	if err := syscall.Statfs(v.directory, &stat); err != nil {
		return ""
	}
	free := int64(stat.Bavail) * int64(stat.Bsize)
	reserve := v.reserve
	if reserve == 0 {
		reserve = min(max(int64(stat.Blocks)*int64(stat.Bsize)/8, 4*mebibyte), 64*mebibyte)
	}
	if free-reserve < more {
		return fmt.Sprintf("%d MiB are free on the volume of %s, and %d MiB are kept free (COLLECTOR_QUEUE_RESERVE_MIB)", free/mebibyte, v.directory, reserve/mebibyte)
	}
	if used := v.used(); v.limit > 0 && used+more > v.limit {
		return fmt.Sprintf("%d MiB are in %s, and %d MiB are allowed (COLLECTOR_QUEUE_LIMIT_MIB)", used/mebibyte, v.directory, v.limit/mebibyte)
	}
	return ""
}

// used returns the space that the files take on disk: those of the queues have holes.
func (v *volume) used() int64 {
	var sum int64
	entries, _ := os.ReadDir(v.directory)
	for _, entry := range entries {
		var stat syscall.Stat_t
		if entry.Type().IsRegular() && syscall.Lstat(filepath.Join(v.directory, entry.Name()), &stat) == nil {
			sum += int64(stat.Blocks) * 512
		}
	}
	return sum
}
