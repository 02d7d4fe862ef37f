package load

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DisturbedFrom is the share of the machine's CPUs from which on other processes disturb a measurement.
const DisturbedFrom = 0.1

// userHZ is the unit of the times in /proc: a tick is 10 ms for every user of Linux.
const userHZ = 100

// Machine is what the CPUs of the machine did since it started.
type Machine struct {
	at   time.Time
	busy time.Duration // in processes, and taken by the hypervisor
	own  time.Duration // of the caller's processes, and of kernel threads, which work for all
}

// MachineNow reads /proc. The caller's own processes are the descendants of this one, and others with theirs: what weft proxy
// starts (Envoy, weft tunnel) outlives its parent and is nobody's descendant.
func MachineNow(own ...int) (m Machine, err error) {
	m.at = time.Now()
	if m.own, err = ownTime(append([]int{os.Getpid(), kernelThreads}, own...)...); err != nil {
		return m, err
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return m, err
	}
	m.busy, err = busyTime(string(text))
	return m, err
}

// Others is the share of the machine's CPUs, between 0 and 1, that other processes had from an earlier Machine to this one.
func (m Machine) Others(since Machine) float64 {
	capacity := m.at.Sub(since.at) * time.Duration(runtime.NumCPU())
	others := (m.busy - since.busy) - (m.own - since.own)
	if capacity <= 0 {
		return 0
	}
	return min(max(float64(others)/float64(capacity), 0), 1)
}

// busyTime reads the first line of /proc/stat: user, nice, system and stolen time. Interrupts are nobody's.
func busyTime(stat string) (time.Duration, error) {
	line, _, _ := strings.Cut(stat, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q, want the times of all CPUs", line)
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 8} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHZ, nil
}

// process is what /proc/PID/stat says of a process.
type process struct {
	parent int
	cpu    time.Duration // its own
	waited time.Duration // of children that ended and were waited for
}

// parseProcess reads /proc/PID/stat. The name may have spaces and parentheses.
func parseProcess(stat string) (process, error) {
	end := strings.LastIndexByte(stat, ')')
	f := strings.Fields(stat[end+1:])
	if end < 0 || len(f) < 15 {
		return process{}, fmt.Errorf("not the stat of a process: %q", stat)
	}
	var v [5]int64
	for i, at := range []int{1, 11, 12, 13, 14} { // ppid, utime, stime, cutime, cstime
		n, err := strconv.ParseInt(f[at], 10, 64)
		if err != nil {
			return process{}, fmt.Errorf("the stat of a process: %w", err)
		}
		v[i] = n
	}
	return process{int(v[0]), time.Duration(v[1]+v[2]) * time.Second / userHZ, time.Duration(v[3]+v[4]) * time.Second / userHZ}, nil
}

// kernelThreads is the process that all kernel threads descend from.
const kernelThreads = 2

// ownTime is the CPU time of processes and of their descendants.
func ownTime(roots ...int) (time.Duration, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	all := map[int]process{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if all[pid], err = parseProcess(string(text)); err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
	}
	return descendants(all, roots...), nil
}

// descendants sums what processes and their descendants spent, each once.
func descendants(all map[int]process, roots ...int) (sum time.Duration) {
	for pid, p := range all {
		for at, steps := pid, 0; at > 0 && steps <= len(all); at, steps = all[at].parent, steps+1 {
			if slices.Contains(roots, at) {
				sum += p.cpu + p.waited
				break
			}
		}
	}
	return sum
}
