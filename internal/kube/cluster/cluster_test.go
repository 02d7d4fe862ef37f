package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/state"
)

func testStore(t *testing.T, kind string) (*Cluster, *store) {
	t.Helper()
	c := New(&rest.Config{Host: "https://127.0.0.1:1"}, kube.NewObjects(state.NewDB()), Options{})
	for _, s := range c.sources {
		if s.kind.GVK.Kind == kind {
			return c, &store{s}
		}
	}
	t.Fatalf("no source for %s", kind)
	return nil, nil
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStoreReplaceRemovesWhatWent(t *testing.T) {
	c, s := testStore(t, "Pod")
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	}
	noError(t, s.Replace([]any{pod("a"), pod("b")}, "1"))
	noError(t, s.Add(pod("c")))
	noError(t, s.Replace([]any{pod("b")}, "2"))
	snap := c.objs.DB.Snapshot()
	if _, ok := c.objs.Pods.Get(snap, "ns/b"); !ok || c.objs.Pods.Len(snap) != 1 {
		t.Errorf("%d pods are there", c.objs.Pods.Len(snap))
	}
	noError(t, s.Delete(pod("b")))
	if n := c.objs.Count(c.objs.DB.Snapshot()); n != 0 {
		t.Errorf("%d objects are left", n)
	}
}

func TestStoreClosesWhatItDoesNotUnderstand(t *testing.T) {
	c, s := testStore(t, "AuthorizationPolicy")
	policy := func(action weftv1.PolicyAction) *weftv1.AuthorizationPolicy {
		p := &weftv1.AuthorizationPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
		p.Spec.Action = action
		p.Spec.Rules = []weftv1.AuthorizationRule{{}}
		return p
	}
	held := func() *weftv1.AuthorizationPolicy {
		p, _ := c.objs.AuthorizationPolicies.Get(c.objs.DB.Snapshot(), "ns/p")
		return p
	}
	noError(t, s.Add(policy("DENY")))
	if p := held(); p == nil || len(p.Spec.Rules) != 0 || p.Annotations[kube.AnnotationStandIn] == "" {
		t.Errorf("what stands in for a policy is %v", p)
	}
	if len(c.objs.AllProblems(c.objs.DB.Snapshot())) != 1 {
		t.Errorf("problems are %v", c.objs.AllProblems(c.objs.DB.Snapshot()))
	}
	noError(t, s.Update(policy("ALLOW")))
	noError(t, s.Update(policy("AUDIT")))
	if p := held(); len(p.Spec.Rules) != 1 || p.Spec.Action != "ALLOW" || p.Annotations[kube.AnnotationStandIn] == "" {
		t.Errorf("the last good version is not kept, or is not marked: %v", p)
	}
	noError(t, s.Delete(policy("AUDIT")))
	if held() != nil || len(c.objs.AllProblems(c.objs.DB.Snapshot())) != 0 {
		t.Errorf("after its deletion: %v, %v", held(), c.objs.AllProblems(c.objs.DB.Snapshot()))
	}
}

// TestStoreRefusesFieldsItDoesNotKnow: a field that is dropped without a word could be the one that closes something.
func TestStoreRefusesFieldsItDoesNotKnow(t *testing.T) {
	c, s := testStore(t, "AuthorizationPolicy")
	policy := func(spec, rest string) {
		t.Helper()
		text := `{"apiVersion": "weft.io/v1alpha1", "kind": "AuthorizationPolicy", "metadata": {"namespace": "ns", "name": "p", "generation": 3, "newer": 1}` +
			rest + `, "spec": ` + spec + `}`
		u := &unstructured.Unstructured{}
		noError(t, u.UnmarshalJSON([]byte(text)))
		noError(t, s.Add(u))
	}
	const rules = `"action": "ALLOW", "rules": [{"sources": [{"type": "Namespace", "namespace": "a"}]}]`
	for _, step := range []struct {
		name, spec, rest string
		unknown          string
		targets          int
	}{
		{"known", `{"targetRefs": [{"kind": "Service", "name": "web"}], ` + rules + `}`, `, "status": {"newer": {}}`, "", 1},
		{"a rule's", `{"targetRefs": [{"kind": "Service", "name": "web"}], "action": "ALLOW", "rules": [{"when": "noon"}]}`, "", `spec.rules[0].when`, 1},
		{"a target's", `{"targetRefs": [{"kind": "Service", "name": "web", "port": 80}], ` + rules + `}`, "", `spec.targetRefs[0].port`, 0},
		{"the policy's", `{` + rules + `, "exempt": []}`, "", `spec.exempt`, 0},
		{"beside the spec", `{` + rules + `}`, `, "scope": {}`, `scope`, 0},
		{"of another type", `{"action": "ALLOW", "rules": [{"http": {"methods": []}}]}`, "", `not of its type`, 0},
		{"known again", `{"targetRefs": [{"kind": "Service", "name": "web"}], ` + rules + `}`, "", "", 1},
	} {
		policy(step.spec, step.rest)
		p, _ := c.objs.AuthorizationPolicies.Get(c.objs.DB.Snapshot(), "ns/p")
		if p == nil || len(p.Spec.TargetRefs) != step.targets || p.Spec.Action != weftv1.ActionAllow {
			t.Errorf("%s: %+v", step.name, p)
			continue
		}
		closed, problems := len(p.Spec.Rules) == 0, c.objs.AllProblems(c.objs.DB.Snapshot())
		if closed != (step.unknown != "") || closed != (len(problems) == 1) {
			t.Errorf("%s: rules %v, problems %v", step.name, p.Spec.Rules, problems)
			continue
		}
		if note := p.Annotations[kube.AnnotationStandIn]; closed && (!strings.Contains(note, step.unknown) || !strings.Contains(problems[0].Reason, step.unknown)) {
			t.Errorf("%s: noted %q, reported %q", step.name, note, problems[0].Reason)
		}
	}
}

// TestStoreGivesNoAddressOfANewerPool: a field that is not known may say who may use the pool.
func TestStoreGivesNoAddressOfANewerPool(t *testing.T) {
	c, s := testStore(t, "AddressPool")
	for _, step := range []struct{ field, want string }{{`, "for": "a"`, "[]"}, {"", "[192.0.2.1]"}, {`, "for": "a"`, "[192.0.2.1]"}} {
		u := &unstructured.Unstructured{}
		noError(t, u.UnmarshalJSON([]byte(`{"apiVersion": "weft.io/v1alpha1", "kind": "AddressPool", "metadata": {"name": "p"}, "spec": {"addresses": ["192.0.2.1"]`+step.field+`}}`)))
		noError(t, s.Add(u))
		p, _ := c.objs.AddressPools.Get(c.objs.DB.Snapshot(), "/p")
		if p == nil || fmt.Sprint(p.Spec.Addresses) != step.want || (p.Annotations[kube.AnnotationStandIn] != "") != (step.field != "") {
			t.Errorf("with %q: %+v", step.field, p)
		}
	}
}

// TestStoreKeepsAPool: what is not there gets no status, and nobody would see the problem.
func TestStoreKeepsAPool(t *testing.T) {
	c, s := testStore(t, "AddressPool")
	pool := func(generation int64, addresses ...string) *weftv1.AddressPool {
		return &weftv1.AddressPool{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: generation}, Spec: weftv1.AddressPoolSpec{Addresses: addresses}}
	}
	for _, step := range []struct {
		pool *weftv1.AddressPool
		want string
		kept bool
	}{
		{pool(1, "192.0.2.1/99"), "192.0.2.1/99", false},
		{pool(2, "192.0.2.0/28"), "192.0.2.0/28", false},
		{pool(3, "9.9.9.9-1.1.1.1"), "192.0.2.0/28", true},
	} {
		noError(t, s.Add(step.pool))
		p, ok := c.objs.AddressPools.Get(c.objs.DB.Snapshot(), "/p")
		if !ok || p.Spec.Addresses[0] != step.want || (p.Annotations[kube.AnnotationStandIn] != "") != step.kept || p.Generation != step.pool.Generation {
			t.Errorf("generation %d: %v", step.pool.Generation, p)
		}
	}
}

func TestStoreMendsLabels(t *testing.T) {
	c, s := testStore(t, "Pod")
	pod := func(mode, ip string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Labels: map[string]string{"weft.io/mtls": mode, "weft.io/l7": "perhaps"}},
			Status:     corev1.PodStatus{PodIP: ip},
		}
	}
	for _, step := range []struct{ mode, ip, want string }{
		{"strickt", "10.0.0.1", "strict"},
		{"permissive", "10.0.0.2", "permissive"},
		{"permisive", "10.0.0.3", "permissive"},
	} {
		noError(t, s.Add(pod(step.mode, step.ip)))
		p, _ := c.objs.Pods.Get(c.objs.DB.Snapshot(), "ns/p")
		if p == nil || p.Labels["weft.io/mtls"] != step.want || p.Status.PodIP != step.ip || p.Labels["weft.io/l7"] != "" {
			t.Errorf("mode %s: %v", step.mode, p)
		}
	}
}

// TestStoreKeepsWhatANamespaceEnforces: a value that is not understood opens nothing.
func TestStoreKeepsWhatANamespaceEnforces(t *testing.T) {
	c, s := testStore(t, "Namespace")
	noError(t, s.Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{
		"weft.io/mtls": "strict", "weft.io/mtls-enforce": "yes",
	}}}))
	ns, _ := c.objs.Namespaces.Get(c.objs.DB.Snapshot(), "/ns")
	if ns == nil || !kube.EnforcesMode(ns) || len(c.objs.AllProblems(c.objs.DB.Snapshot())) != 1 {
		t.Errorf("%v, problems %v", ns, c.objs.AllProblems(c.objs.DB.Snapshot()))
	}
}

// Whoever may create pods must not place one in the network namespace of another.
func TestAPodDoesNotSayWhereItRuns(t *testing.T) {
	c, s := testStore(t, "Pod")
	noError(t, s.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Annotations: map[string]string{
		kube.AnnotationNetNS: "stolen", kube.AnnotationCgroup: "stolen", kube.AnnotationIP: "10.0.0.1", "weft.io/other": "kept",
	}}}))
	p, _ := c.objs.Pods.Get(c.objs.DB.Snapshot(), "ns/p")
	if len(p.Annotations) != 1 || p.Annotations["weft.io/other"] != "kept" {
		t.Errorf("annotations %v", p.Annotations)
	}
}

func TestAPodDoesNotTakeTheUIDOfAnother(t *testing.T) {
	c, s := testStore(t, "Pod")
	pod := func(name, uid, mirror string, age time.Duration, hostNetwork bool) {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid), CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))},
			Spec:       corev1.PodSpec{NodeName: "n", HostNetwork: hostNetwork},
		}
		if mirror != "" {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: mirror}
		}
		noError(t, s.Add(p))
	}
	pod("b-victim", "1", "", 0, false)
	pod("a-thief", "2", "1", time.Hour, false)
	pod("d-static", "3", "hash", time.Hour, false)
	pod("c-thief", "4", "hash", 0, false)
	pod("f-host", "5", "other", time.Hour, true)
	pod("e-thief", "6", "other", 0, false)
	var got []string
	for _, p := range c.objs.NodePods(c.objs.DB.Snapshot(), "n") {
		got = append(got, p.Name+"="+p.UID)
	}
	if want := []string{"b-victim=1", "d-static=hash"}; !slices.Equal(got, want) {
		t.Errorf("pods %v, want %v", got, want)
	}
}

func TestAddressOfTheAPIServer(t *testing.T) {
	for host, want := range map[string]string{
		"https://10.89.0.2:6443": "10.89.0.2:6443", "https://[fd00::1]": "[fd00::1]:443", "10.0.0.1:8443": "10.0.0.1:8443",
		"https://api.example.com": "invalid AddrPort",
	} {
		if got := New(&rest.Config{Host: host}, kube.NewObjects(state.NewDB()), Options{}).Address().String(); got != want {
			t.Errorf("%s is %s, want %s", host, got, want)
		}
	}
}

// TestAHeartbeatOfANodeChangesNothing: only its addresses and the labels that are asked for are kept.
func TestAHeartbeatOfANodeChangesNothing(t *testing.T) {
	c, s := testStore(t, "Node")
	c.opts.NodeLabels = []string{"edge"}
	node := func(beat time.Time) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: beat.String(), Labels: map[string]string{"beat": beat.String(), "edge": "yes"}},
			Spec:       corev1.NodeSpec{PodCIDR: "10.244.1.0/24", ProviderID: beat.String()},
			Status: corev1.NodeStatus{
				Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0.2"}, {Type: corev1.NodeHostName, Address: "n"}},
				Conditions: []corev1.NodeCondition{{LastHeartbeatTime: metav1.NewTime(beat)}},
			},
		}
	}
	add := func(beat time.Time) {
		o, err := s.Transformer()(node(beat))
		noError(t, err)
		noError(t, s.Add(o))
	}
	feed := c.objs.DB.Feed()
	defer feed.Close()
	add(time.Unix(1, 0))
	if keys, _ := feed.Take(); len(keys) == 0 {
		t.Fatal("the node did not come")
	}
	add(time.Unix(2, 0))
	if keys, _ := feed.Take(); len(keys) > 0 {
		t.Errorf("a heartbeat changed %v", keys)
	}
	n, ok := c.objs.Nodes.Get(c.objs.DB.Snapshot(), "/n")
	if !ok || n.Spec.PodCIDR != "10.244.1.0/24" || len(kube.NodeAddresses(n)) != 1 || !maps.Equal(n.Labels, map[string]string{"edge": "yes"}) {
		t.Errorf("of the node is kept %+v", n)
	}
}
