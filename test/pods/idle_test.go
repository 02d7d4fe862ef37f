package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkIdleAgent measures what the agent of a cluster's node spends while nothing changes: the milliseconds of CPU
// in each second, and the memory that it holds resident. An iteration is ten seconds:
//
//	go test -run - -bench IdleAgent -benchtime 3x ./test/pods
func BenchmarkIdleAgent(b *testing.B) {
	for _, pods := range []int{0, 110, 250} {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) { idle(b, pods) })
	}
	b.Run("pods=110,no-udp-flows", func(b *testing.B) { idle(b, 110, "--no-udp-flows") })
}

func idle(b *testing.B, pods int, args ...string) {
	n := newNode(b)
	defer n.clean()
	n.args = append(n.args, args...)
	n.api.custom.Store(true)
	n.api.namespace("shop", "permissive")
	for i := range pods {
		p := n.newPod("shop", fmt.Sprintf("p%d", i))
		p.uid = fmt.Sprintf("00000000-0000-4000-8000-%012x", i)
		p.object(p.Address.String())
		p.run()
	}
	n.start()
	n.ready()
	n.settle()
	b.ResetTimer()
	before := n.cpuTime()
	for range b.N {
		time.Sleep(10 * time.Second)
	}
	b.StopTimer()
	spent := n.cpuTime() - before
	b.ReportMetric(float64(spent.Microseconds())/1e3/b.Elapsed().Seconds(), "cpu-ms/s")
	b.ReportMetric(float64(n.resident())/1e6, "resident-MB")
	b.ReportMetric(0, "ns/op")
}

// settle waits until the agent has done what a start brings: certificates, Envoy's listeners.
func (n *node) settle() {
	n.t.Helper()
	const window, quiet, most = 2 * time.Second, 40 * time.Millisecond, 60
	time.Sleep(10 * time.Second)
	for range most {
		before := n.cpuTime()
		time.Sleep(window)
		if n.cpuTime()-before < quiet {
			return
		}
	}
	n.t.Fatalf("the agent spends more than %v in each %v", quiet, window)
}

// cpuTime is the time that the agent's threads spent on a CPU: the first field of /proc/PID/task/TID/schedstat
// (proc(5)), in nanoseconds.
func (n *node) cpuTime() time.Duration {
	n.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", n.agent.Process.Pid))
	if err != nil || len(files) == 0 {
		n.t.Fatalf("the agent has no threads (%v)", err)
	}
	var sum time.Duration
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended
		}
		var ns time.Duration
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			n.t.Fatal(err)
		}
		sum += ns
	}
	return sum
}

// resident is the agent's resident memory in bytes: VmRSS of /proc/PID/status.
func (n *node) resident() int {
	n.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.agent.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kB := 0
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		n.t.Fatal(err)
	}
	return kB * 1024
}
