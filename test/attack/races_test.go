package attack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/explain"
)

// flipRounds is how often what is strict is opened and closed again.
var flipRounds = map[bool]int{false: 6, true: 40}[long]

// attempts are connections that an outsider makes all the time.
type attempts struct {
	mu     sync.Mutex
	served []span // connections that an application answered, from the call of connect to the answer
	all    int
}

type span struct{ from, to time.Time }

// knock makes connections to an address until ctx ends.
func (s *attempts) knock(ctx context.Context, try func() error) {
	for ctx.Err() == nil {
		began := time.Now()
		err := try()
		s.mu.Lock()
		s.all++
		if err == nil {
			s.served = append(s.served, span{began, time.Now()})
		}
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
}

// within counts the connections that began after a time and were answered before another.
func (s *attempts) within(closed span) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.served {
		if one.from.After(closed.from) && one.to.Before(closed.to) {
			n++
		}
	}
	return n
}

// flippedModes: a pod's mode goes through all that there are, as fast as files can be written, while an outsider connects in the
// clear. From when the agent says that the kernel has the pod as strict, until the pod is made something else, none is served; a
// connection of before is ended.
func flippedModes(t *testing.T, a *arena) string {
	const file = "attack/all.yaml"
	to := netip.AddrPortFrom(a.open.Address, 8080)
	at := "permissive"
	mode := func(next string) {
		t.Helper()
		if next == at {
			return
		}
		const label = "name: open, labels: {weft.io/mtls: "
		err := a.Edit(file, func(text string) string { return strings.Replace(text, label+at+"}", label+next+"}", 1) })
		if err != nil {
			t.Fatal(err)
		}
		at = next
	}
	t.Cleanup(func() {
		mode("permissive")
		until(t, "the pod is open again", func() error { return reached(a.outsider, to) })
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var tries attempts
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { tries.knock(ctx, func() error { return reached(a.outsider, to) }) })
	}
	in := 0
	var late time.Duration // the longest that an open connection was answered after that
	for range flipRounds {
		until(t, "the pod is open", func() error { return reached(a.outsider, to) })
		kept, err := a.outsider.Dial(contextFor(5*time.Second), "tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, next := range []string{"disabled", "permissive", "disabled", "strict"} {
			mode(next)
		}
		until(t, "the kernel has taken the pod to be strict", func() error { return a.closed("open/server") })
		closed := span{from: time.Now()}
		// What was open before is ended by user space, after the kernel refuses what is new.
		until(t, "what was open before is ended", func() error {
			if !answered(kept) {
				return nil
			}
			late = max(late, time.Since(closed.from))
			return errors.New("it is answered")
		})
		kept.Close()
		time.Sleep(100 * time.Millisecond)
		closed.to = time.Now()
		mode("permissive")
		in += tries.within(closed)
	}
	stop()
	wg.Wait()
	if in > 0 {
		t.Errorf("an outsider is served in the clear by what is strict: %d new connections", in)
	}
	return fmt.Sprintf("%d connections, %d served while it was not strict, %d while it was; open ones were ended within %s",
		tries.all, len(tries.served), in, late.Round(time.Millisecond))
}

// closed returns nil once the node has a pod as strict, and the kernel, Envoy and weft tunnel have taken over the newest that the node
// knows of it.
func (a *arena) closed(pod string) error {
	d, err := a.API.Arrive(context.Background(), explain.Arrival{From: "bank/client", To: pod, Port: 8080, Way: explain.ByKernel})
	if err == nil && (d.Verdict != explain.Refused || len(d.Notes) > 0) {
		err = fmt.Errorf("a connection in the clear is %s; %s", d.Verdict, strings.Join(d.Notes, "; "))
	}
	return err
}

// answered reports whether an application answers on a connection.
func answered(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	n, _ := c.Read(make([]byte, 1))
	return n > 0
}

// untilKnown waits until the node has a workload of a namespace.
func (a *arena) untilKnown(t *testing.T, namespace string) {
	t.Helper()
	until(t, "the node has a workload of "+namespace, func() error {
		st, err := a.API.Status(t.Context())
		if err != nil {
			return err
		}
		for _, w := range st.Workloads {
			if w.Namespace == namespace {
				return nil
			}
		}
		return errors.New("not yet")
	})
}

const guardedBank = `apiVersion: weft.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: lent, namespace: bank}
spec:
  targetRefs: [{kind: Service, name: bytes}]
  action: ALLOW
  rules: [{sources: [{type: Namespace, namespace: bank}, {type: Namespace, namespace: lent}]}]
`

const lent = `apiVersion: v1
kind: Namespace
metadata: {name: lent, labels: {weft.io/mtls: strict}}
---
apiVersion: v1
kind: Namespace
metadata: {name: heir, labels: {weft.io/mtls: strict}}
---
apiVersion: v1
kind: Pod
metadata: {name: holder, namespace: lent}
spec: {serviceAccountName: holder}
`

// inheritedAddress: a pod that a policy allows is deleted, and another namespace's pod has its address at once. It is not taken for
// the one that was there before, whatever its predecessor has left in weft tunnel, in Envoy and in the kernel.
func inheritedAddress(t *testing.T, a *arena) string {
	const file = "lent/all.yaml"
	a.put(t, "lent-policy.yaml", guardedBank)
	if err := a.Apply(t.Context(), fstest.MapFS{file: {Data: []byte(lent)}}, "lent"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(a.Manifests(), "lent")) })
	pod, served := a.Pod("lent", "holder"), 0
	// By weft tunnel, by Envoy, and past both.
	ways := []netip.AddrPort{
		netip.AddrPortFrom(a.ServiceIP("bank", "bytes"), 80), netip.AddrPortFrom(a.ServiceIP("bank", "routed"), 80),
		netip.AddrPortFrom(a.server.Address, 8080),
	}
	// The old pod ends with its network namespace, and its address is in the other's. The folder takes the place of the runtime: it says
	// whose namespace it is.
	give := func(from, to string) {
		t.Helper()
		if err := pod.Remove(); err != nil {
			t.Fatal(err)
		}
		if err := a.Edit(file, func(text string) string { return strings.Replace(text, "namespace: "+from, "namespace: "+to, 1) }); err != nil {
			t.Fatal(err)
		}
		a.untilKnown(t, to)
		if err := pod.Recreate(); err != nil {
			t.Fatal(err)
		}
	}
	const rounds = 8
	for range rounds {
		for _, to := range ways {
			until(t, "who is allowed is served at "+to.String(), func() error { return reached(pod, to) })
		}
		give("lent", "heir")
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
			for _, to := range ways {
				if reached(pod, to) == nil {
					served++
				}
			}
		}
		until(t, "the heir is in the mesh", func() error {
			return reached(pod, netip.AddrPortFrom(a.accomplice.Address, 8080))
		})
		for _, to := range ways {
			if reached(pod, to) == nil {
				served++
			}
		}
		give("heir", "lent")
	}
	if served > 0 {
		t.Errorf("%d connections of the heir are served as its predecessor's", served)
	}
	return fmt.Sprintf("%d times", rounds)
}

// flippedPolicy: a policy is replaced by others that allow the outsider no more than it did, and its Service is relabelled, deleted
// and made again, as fast as files can be written. The outsider, who connects all the time, is never served; who is allowed by each of
// them always is.
func flippedPolicy(t *testing.T, a *arena) string {
	to := netip.AddrPortFrom(a.open.Address, 8080)
	policy := func(rules string) string {
		return "apiVersion: weft.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: flipped, namespace: open}\nspec:\n" +
			"  targetRefs: [{kind: Service, name: flipped}]\n  action: ALLOW\n  rules: " + rules + "\n"
	}
	service := func(app string) string {
		return "apiVersion: v1\nkind: Service\nmetadata: {name: flipped, namespace: open}\n" +
			"spec: {clusterIP: 10.96.77.5, selector: {app: " + app + "}, ports: [{port: 80, targetPort: 8080}]}\n"
	}
	rules := []string{
		"[{sources: [{type: Namespace, namespace: bank}]}]",
		"[{sources: [{type: Namespace, namespace: bank}, {type: Namespace, namespace: tenant}]}]",
		"[{sources: [{type: Namespace, namespace: bank}], networkAttributes: {ports: [8080]}}]",
	}
	a.put(t, "flipped-service.yaml", service("server"))
	a.put(t, "flipped-policy.yaml", policy(rules[0]))
	until(t, "the policy is in force", func() error {
		if reached(a.outsider, to) == nil {
			return errors.New("an outsider is answered")
		}
		return reached(a.client, to)
	})
	ctx, stop := context.WithCancel(t.Context())
	var strangers, friends attempts
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { strangers.knock(ctx, func() error { return reached(a.outsider, to) }) })
	}
	var failed []error
	wg.Go(func() {
		friends.knock(ctx, func() error {
			err := reached(a.client, to)
			if err != nil && ctx.Err() == nil {
				failed = append(failed, err)
			}
			return err
		})
	})
	write := func(file, text string) {
		t.Helper()
		if err := a.Write(file, []byte(text)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	for i := range flipRounds {
		write("flipped-policy.yaml", policy(rules[(i+1)%len(rules)]))
		write("flipped-service.yaml", service("nobody"))
		if i%2 == 0 {
			if err := os.Remove(filepath.Join(a.Manifests(), "flipped-service.yaml")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Millisecond)
		}
		write("flipped-service.yaml", service("server"))
	}
	stop()
	wg.Wait()
	if n := len(strangers.served); n > 0 {
		t.Errorf("%d connections of an outsider are served", n)
	}
	if len(failed) > 0 {
		t.Errorf("%d connections of who is allowed fail, the first by %v", len(failed), failed[0])
	}
	return fmt.Sprintf("%d connections of an outsider refused, %d of who is allowed served", strangers.all, len(friends.served))
}
