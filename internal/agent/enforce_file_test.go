package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// Of all that changes in a cluster, only the policies of this node's workloads write the file of what is enforced.
func TestEnforcedIsWrittenForPoliciesOfThisNodeAlone(t *testing.T) {
	st := state.New(state.NewDB())
	put := func(w *model.Workload) {
		tx := st.Write(st.Workloads)
		st.Workloads.Put(tx, w)
		tx.Commit()
	}
	pod := func(name string, local bool, node string, policy *model.Policy) {
		put(&model.Workload{Namespace: "shop", Name: name, Local: local, Node: node, Policy: policy})
	}
	policy := func(name string) *model.Policy { return &model.Policy{Names: []string{name}} }
	pod("web", true, "n1", policy("first"))
	st.MarkSynced()

	dir := t.TempDir()
	writes := countRenames(t, dir)
	e := &enforcer{st: st, file: filepath.Join(dir, enforceFile), log: slog.New(slog.DiscardHandler), force: map[string]*inForce{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.run(ctx) }()
	holds := func(text string) {
		t.Helper()
		var got []byte
		for range 2000 {
			if got, _ = os.ReadFile(e.file); strings.Contains(string(got), text) {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("the file holds %s, want %s", got, text)
	}
	holds("first")

	for i := range 100 {
		pod(fmt.Sprintf("far-%d", i), false, "n2", policy("far"))
		pod(fmt.Sprintf("plain-%d", i), true, "n1", nil)
		pod("web", true, fmt.Sprint("label-", i), policy("first"))
		if i%2 == 0 {
			tx := st.Write(st.Workloads)
			st.Workloads.Delete(tx, fmt.Sprintf("shop/far-%d", i))
			st.Workloads.Delete(tx, fmt.Sprintf("shop/plain-%d", i))
			tx.Commit()
		}
		time.Sleep(time.Millisecond) // else all are one change
	}
	pod("web", true, "n1", policy("second"))
	holds("second")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := writes(); n != 2 {
		t.Errorf("the file was written %d times, want 2: at the start, and for the policy", n)
	}
}

// countRenames returns what counts the files that were moved into place in a directory since. The kernel makes one event
// of equal ones, so those of the files' creation keep them apart.
func countRenames(t *testing.T, dir string) func() int {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	return func() int {
		n, buf := 0, make([]byte, 1<<20)
		size, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < size; { // inotify(7)
			mask, length := binary.NativeEndian.Uint32(buf[at+4:]), binary.NativeEndian.Uint32(buf[at+12:])
			at += unix.SizeofInotifyEvent + int(length)
			if mask&unix.IN_MOVED_TO != 0 {
				n++
			}
		}
		return n
	}
}
