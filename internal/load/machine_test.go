package load

import (
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBusyTime(t *testing.T) {
	got, err := busyTime("cpu  100 20 30 4000 50 60 70 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
	if err != nil || got != 1580*time.Millisecond {
		t.Errorf("%v %v, want user, nice, system and stolen time: 1.58s", got, err)
	}
	for _, bad := range []string{"", "cpu 1 2", "cpu0 1 2 3 4 5 6 7 8", "cpu 1 2 x 4 5 6 7 8"} {
		if got, err := busyTime(bad); err == nil {
			t.Errorf("%q: %v, want an error", bad, got)
		}
	}
}

func TestParseProcess(t *testing.T) {
	got, err := parseProcess("77 (a (b) c) S 5 77 77 0 -1 4194560 1 2 3 4 150 50 30 20 20 0 1 0 9 9 9\n")
	if want := (process{5, 2 * time.Second, 500 * time.Millisecond}); err != nil || got != want {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "77 (a) S 5", "77 (a) S x 77 77 0 -1 4194560 1 2 3 4 150 50 30 20 20 0"} {
		if got, err := parseProcess(bad); err == nil {
			t.Errorf("%q: %+v, want an error", bad, got)
		}
	}
}

func TestDescendants(t *testing.T) {
	all := map[int]process{
		1: {0, time.Hour, time.Hour}, 2: {0, 1, 0}, 3: {2, 2, 0}, // the first process; kernel threads
		10: {1, 4, 8}, 11: {10, 16, 0}, 12: {11, 32, 0}, // the benchmark
		20: {1, time.Hour, 0}, 21: {20, time.Hour, 0}, // others
		30: {31, time.Hour, 0}, 31: {30, time.Hour, 0}, // never: a circle, read while processes changed
	}
	for want, roots := range map[time.Duration][]int{60: {10}, 63: {10, 2}, 63 + time.Hour: {10, 2, 21, 12}} {
		if got := descendants(all, roots...); got != want {
			t.Errorf("%v: %d, want %d", roots, got, want)
		}
	}
}

func TestOthersShare(t *testing.T) {
	at, cores := time.Now(), float64(runtime.NumCPU())
	for name, tt := range map[string]struct {
		busy, own, took time.Duration
		want            float64
	}{
		"nobody else":    {2 * time.Second, 2 * time.Second, time.Second, 0},
		"half of one":    {time.Second, 500 * time.Millisecond, time.Second, 0.5 / cores},
		"ticks run late": {time.Second, 1010 * time.Millisecond, time.Second, 0},
		"no time":        {time.Second, 0, 0, 0},
	} {
		before := Machine{at, time.Hour, time.Minute}
		after := Machine{at.Add(tt.took), time.Hour + tt.busy, time.Minute + tt.own}
		if got := after.Others(before); math.Abs(got-tt.want) > 1e-9 {
			t.Errorf("%s: %g, want %g", name, got, tt.want)
		}
	}
}

// The CPU time of this process is the benchmark's own.
func TestMachineNow(t *testing.T) {
	before, err := MachineNow()
	if err != nil {
		t.Fatal(err)
	}
	self0, err := ownTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		_, _ = os.Getwd()
	}
	after, err := MachineNow()
	if err != nil {
		t.Fatal(err)
	}
	if after.own <= before.own || after.own <= self0 || after.busy <= before.busy {
		t.Errorf("%+v, then %+v: time went by without CPU time", before, after)
	}
}

// What weft proxy starts is a child of the first process of the machine. Where it is measured, its CPU time is the
// benchmark's own.
func TestMeasuredProcessIsOwn(t *testing.T) {
	out, err := exec.Command("sh", "-c", "ulimit -t 10; (while :; do :; done) >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	var orphan time.Duration
	for began := time.Now(); orphan < 200*time.Millisecond && time.Since(began) < 20*time.Second; time.Sleep(20 * time.Millisecond) {
		if orphan, err = ownTime(pid); err != nil {
			t.Fatal(err)
		}
	}
	with, err := MachineNow(pid)
	if err != nil {
		t.Fatal(err)
	}
	without, err := MachineNow() // at once: other processes of the benchmark may end, and their time with them
	if err != nil {
		t.Fatal(err)
	}
	if with.own-without.own < 100*time.Millisecond {
		t.Errorf("own time with the process %v, without it %v; it spent %v", with.own, without.own, orphan)
	}
}
