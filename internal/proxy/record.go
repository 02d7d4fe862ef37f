package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// envoy identifies a started Envoy.
type envoy struct {
	PID        int       `json:"pid"`
	StartTicks uint64    `json:"startTicks"` // tells it from a later process with the same pid
	Epoch      int       `json:"epoch"`
	BaseID     uint32    `json:"baseID"`
	Binary     string    `json:"binary"`
	Since      time.Time `json:"since"`
}

// record is <run>/proxy.json: what a supervisor must know of the one before it.
type record struct {
	Boot      string  `json:"boot"`   // boot ID and PID namespace, in which the pids mean something
	Envoys    []envoy `json:"envoys"` // by age; the last one serves, or is about to
	Restarts  int     `json:"restarts"`
	Overloads int     `json:"overloads,omitempty"`
	Crashes   int     `json:"crashes"`
}

// bootID names the space of pids.
func bootID() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	ns, _ := os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(id)) + " " + ns
}

func (c Config) saveRecord(r record) error { return c.saveRecordIn(recordFile, r) }

func (c Config) saveRecordIn(name string, r record) error {
	r.Boot = bootID()
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(c.path(name), data, 0o600); err != nil {
		return fmt.Errorf("remember Envoy: %w", err)
	}
	return nil
}

// loadRecord gives what was remembered: nothing if that is of another boot or cannot be read, for then no Envoy can be
// found by it.
func (c Config) loadRecord() record { return c.loadRecordOf(recordFile) }

func (c Config) loadRecordOf(name string) record {
	data, err := os.ReadFile(c.path(name))
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.Log.Warn("what is remembered of Envoy cannot be read", "error", err)
		}
		return record{}
	}
	r, err := parseRecord(data)
	if err != nil {
		c.Log.Warn("what is remembered of Envoy cannot be read; it is left aside", "file", c.path(name), "error", err)
		return record{}
	}
	if r.Boot != bootID() {
		return record{}
	}
	return r
}

func parseRecord(data []byte) (record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, err
	}
	for _, e := range r.Envoys {
		if e.PID <= 1 || e.Epoch < 0 || e.StartTicks == 0 {
			return record{}, fmt.Errorf("no Envoy can have pid %d, epoch %d and start time %d", e.PID, e.Epoch, e.StartTicks)
		}
	}
	return r, nil
}

// errLocked: another process supervises.
var errLocked = errors.New("the run directory is another weft proxy's")

// lock takes <run>/proxy.lock, which ends with the file's closing, so with the process. errLocked if it is taken.
func (c Config) lock() (*os.File, error) {
	f, err := os.OpenFile(c.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// sharedMemory is the file that Envoys of one base ID share: size and version (64 bit each), two locks, flags.
func sharedMemory(baseID uint32) string {
	return fmt.Sprintf("/dev/shm/envoy_shared_memory_%d", uint64(baseID)*10)
}

// forget removes what Envoys of a base ID leave behind.
func (c Config) forget(baseID uint32) {
	_ = os.Remove(sharedMemory(baseID))
	left, _ := filepath.Glob(fmt.Sprintf("%s_*_%d[0-9]", c.path("envoy"), baseID))
	for _, f := range left {
		_ = os.Remove(f)
	}
}
