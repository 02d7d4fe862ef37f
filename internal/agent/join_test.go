package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weft-mesh/weft/internal/cni"
	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/kube/manifests"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/placement"
	"github.com/weft-mesh/weft/internal/state"
)

// joinTest is a joiner whose kernel and Envoy do what the test says, by rows.
type joinTest struct {
	*joiner
	t      *testing.T
	strict atomic.Bool
	dir    string
	log    strings.Builder
}

func newJoinTest(t *testing.T) *joinTest {
	j := &joinTest{t: t, dir: t.TempDir()}
	for _, d := range []string{"netns", "manifests"} {
		if err := os.Mkdir(filepath.Join(j.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	j.file("netns/cni-1", "")
	db := state.NewDB()
	objs := kube.NewObjects(db)
	j.joiner = &joiner{
		objs: objs, st: state.New(db), log: slog.New(slog.NewTextHandler(&j.log, nil)),
		strict: func(string) bool { return j.strict.Load() },
		limit:  300 * time.Millisecond, patience: 100 * time.Millisecond,
	}
	j.sandboxes = placement.NewSandboxes(placement.Config{
		Objects: objs, State: j.st, Node: "n1",
		Scanner: placement.Scanner{NetNSDir: filepath.Join(j.dir, "netns"), Proc: "/proc"}, File: filepath.Join(j.dir, "placements.json"),
	})
	return j
}

func (j *joinTest) placement() *model.Placement {
	p, _ := j.st.Placements.Get(j.st.Snapshot(), model.PlacementKey("shop", "web", "u1"))
	return p
}

func (j *joinTest) file(name, text string) {
	if err := os.WriteFile(filepath.Join(j.dir, name), []byte(text), 0o644); err != nil {
		j.t.Fatal(err)
	}
}

// load reads the manifests as they are now.
func (j *joinTest) load() {
	if err := manifests.NewFolder(filepath.Join(j.dir, "manifests"), j.objs, manifests.FolderOptions{}).Load(); err != nil {
		j.t.Fatal(err)
	}
}

// namespace makes the Namespace's object.
func (j *joinTest) namespace(mode model.MTLSMode) {
	j.file("manifests/namespace.yaml", fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {weft.io/mtls: %s}}\n", mode))
	j.load()
}

// pod makes the Pod's object. In a folder UIDs are given, but for static pods'.
func (j *joinTest) pod(uid string, hostNetwork bool) {
	j.file("manifests/pod.yaml", fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop, annotations: "+
		"{kubernetes.io/config.mirror: %s}}\nspec: {nodeName: n1, hostNetwork: %v, containers: [{name: c, image: i}]}\n", uid, hostNetwork))
	j.load()
}

func (j *joinTest) workload(w *model.Workload) {
	w.Namespace, w.Name = "shop", "web"
	if w.NetNS != "" {
		w.NetNS = filepath.Join(j.dir, "netns", filepath.Base(w.NetNS)) // as placements have it
	}
	tx := j.st.Write(j.st.Workloads)
	j.st.Workloads.Put(tx, w)
	tx.Commit()
}

// programmed writes that the kernel holds the workload as it is now.
func (j *joinTest) programmed() {
	_, revision, _ := j.st.Workloads.Revision(j.st.Snapshot(), "shop/web")
	tx := j.st.Write(j.st.Programmed)
	j.st.Programmed.Put(tx, &model.Programmed{Subject: joinSubject, Revision: revision})
	tx.Commit()
}

// accepted writes that Envoy has accepted the workload as it is now.
func (j *joinTest) accepted() {
	_, revision, _ := j.st.Workloads.Revision(j.st.Snapshot(), "shop/web")
	tx := j.st.Write(j.st.Accepted)
	j.st.Accepted.Put(tx, &model.Accepted{Subject: joinSubject, Revision: revision})
	tx.Commit()
}

// carried writes that weft tunnel carries the workload as it is now.
func (j *joinTest) carried() {
	_, revision, _ := j.st.Workloads.Revision(j.st.Snapshot(), "shop/web")
	tx := j.st.Write(j.st.Carried)
	j.st.Carried.Put(tx, &model.Carried{Subject: joinSubject, Revision: revision})
	tx.Commit()
}

var joinSubject = model.Subject{Kind: model.SubjectWorkload, Name: "shop/web"}

// certified writes the row of an identity: with a certificate, or with the reason why there is none.
func (j *joinTest) certified(id model.Identity, fails bool) {
	c := &model.Certified{Identity: id, NotAfter: time.Now().Add(time.Hour)}
	if fails {
		c = &model.Certified{Identity: id, Error: "no CA answers"}
	}
	tx := j.st.Write(j.st.Certified)
	j.st.Certified.Put(tx, c)
	tx.Commit()
}

var joinRequest = &cni.Request{
	Namespace: "shop", Name: "web", UID: "u1", ContainerID: "c1", NetNS: "/var/run/netns/cni-1",
	Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
}

func TestAddDecides(t *testing.T) {
	local := func(mode model.MTLSMode, policy *model.Policy) *model.Workload {
		return &model.Workload{MTLS: mode, Policy: policy, Local: true, NetNS: "/run/netns/cni-1", Addresses: joinRequest.Addresses}
	}
	known := local(model.MTLSStrict, nil)
	known.Identity = model.NewIdentity("cluster.local", "shop", "web")
	permissive := local(model.MTLSPermissive, nil)
	permissive.Identity = known.Identity
	for _, test := range []struct {
		name          string
		synced, pod   bool
		uid           string // of the object, if not the request's
		host          bool
		workload      *model.Workload
		kernel, envoy bool
		uncertified   bool
		tunnel        bool // weft tunnel is connected
		carried       bool
		strict        bool   // namespace
		lacks         string // in the error, or in the log where it proceeds
		proceeds      bool
	}{
		{name: "ready", synced: true, pod: true, workload: local(model.MTLSStrict, nil), kernel: true, envoy: true, strict: true, proceeds: true},
		{name: "host's network", synced: true, pod: true, host: true, strict: true, proceeds: true},
		{name: "not read yet", strict: true, lacks: "has not read them all"},
		{name: "not read yet, may go on", lacks: "has not read them all", proceeds: true},
		{name: "no object", synced: true, strict: true, lacks: "the Pod's object"},
		{name: "no object, may go on", synced: true, lacks: "the Pod's object", proceeds: true},
		{name: "object of the pod before", synced: true, pod: true, uid: "u0", strict: true, lacks: "the Pod's object"},
		{name: "no workload", synced: true, pod: true, strict: true, lacks: "address or network namespace"},
		{name: "no address, strict", synced: true, pod: true, workload: &model.Workload{MTLS: model.MTLSStrict}, lacks: "address or network namespace"},
		{name: "the sandbox before, strict", synced: true, pod: true, workload: &model.Workload{
			MTLS: model.MTLSStrict, Local: true, NetNS: "/run/netns/cni-0", Addresses: joinRequest.Addresses,
		}, kernel: true, envoy: true, lacks: "its new sandbox"},
		{name: "the sandbox before, with a policy", synced: true, pod: true, workload: &model.Workload{
			Policy: &model.Policy{}, Local: true, NetNS: "/run/netns/cni-0", Addresses: joinRequest.Addresses,
		}, kernel: true, envoy: true, lacks: "its new sandbox"},
		{name: "the sandbox before, may go on", synced: true, pod: true, workload: &model.Workload{
			MTLS: model.MTLSPermissive, Local: true, NetNS: "/run/netns/cni-0", Addresses: joinRequest.Addresses,
		}, kernel: true, envoy: true, lacks: "its new sandbox", proceeds: true},
		{name: "not in the kernel, strict", synced: true, pod: true, workload: local(model.MTLSStrict, nil), envoy: true, lacks: "hooks in the kernel"},
		{name: "not in the kernel, with a policy", synced: true, pod: true, workload: local(model.MTLSDisabled, &model.Policy{}), lacks: "hooks in the kernel"},
		{name: "not in the kernel, may go on", synced: true, pod: true, workload: local(model.MTLSPermissive, nil), strict: true, lacks: "hooks in the kernel", proceeds: true},
		{name: "no certificate, strict", synced: true, pod: true, workload: known, kernel: true, uncertified: true, lacks: "certificate: no CA answers"},
		{name: "no Envoy, strict", synced: true, pod: true, workload: local(model.MTLSStrict, nil), kernel: true, lacks: "Envoy"},
		{name: "no Envoy, with a policy", synced: true, pod: true, workload: local(model.MTLSDisabled, &model.Policy{}), kernel: true, lacks: "Envoy", proceeds: true},
		{name: "no Envoy, may go on", synced: true, pod: true, workload: local(model.MTLSPermissive, nil), kernel: true, strict: true, lacks: "Envoy", proceeds: true},
		{name: "no tunnel", synced: true, pod: true, workload: known, kernel: true, envoy: true, proceeds: true},
		{name: "carried", synced: true, pod: true, workload: known, kernel: true, envoy: true, tunnel: true, carried: true, proceeds: true},
		{name: "not carried, strict", synced: true, pod: true, workload: known, kernel: true, envoy: true, tunnel: true, lacks: "weft tunnel"},
		{name: "not carried, no identity", synced: true, pod: true, workload: local(model.MTLSDisabled, nil), kernel: true, envoy: true, tunnel: true, proceeds: true},
		{name: "not carried, may go on", synced: true, pod: true, workload: permissive, kernel: true, envoy: true, tunnel: true, lacks: "weft tunnel", proceeds: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newJoinTest(t)
			if test.tunnel {
				tx := j.st.Write(j.st.Carried)
				j.st.Carried.Put(tx, &model.Carried{Subject: model.Tunnel})
				tx.Commit()
			}
			if test.synced {
				j.st.MarkSynced()
			}
			if test.uid == "" {
				test.uid = joinRequest.UID
			}
			if test.pod {
				j.pod(test.uid, test.host)
			}
			if test.workload != nil {
				j.workload(test.workload)
				j.namespace(test.workload.MTLS)
			} else {
				j.namespace(model.MTLSStrict)
			}
			if test.kernel {
				j.programmed()
			}
			if test.envoy {
				j.accepted()
			}
			if test.carried {
				j.carried()
			}
			j.strict.Store(test.strict)
			if w := test.workload; w != nil && w.Identity != "" {
				j.certified(w.Identity, test.uncertified)
			}
			began := time.Now()
			err := j.Add(context.Background(), joinRequest)
			if p := j.placement(); p == nil || filepath.Base(p.NetNS) != "cni-1" || !slices.Equal(p.Addresses, joinRequest.Addresses) {
				t.Errorf("placement %+v", p)
			}
			if test.proceeds {
				if err != nil || !strings.Contains(j.log.String(), test.lacks) {
					t.Errorf("error %v, log %s", err, j.log.String())
				}
			} else if e := tryLater(t, err); !strings.Contains(e.Msg, test.lacks) || !strings.Contains(e.Msg, "namespace shop") {
				t.Errorf("error %v, want one about %q", err, test.lacks)
			}
			if took := time.Since(began); test.lacks == "" && took > j.patience {
				t.Errorf("took %v", took)
			}
			if checked := j.Check(context.Background(), joinRequest); (checked == nil) != (test.lacks == "") {
				t.Errorf("CHECK: %v", checked)
			}
		})
	}
}

func tryLater(t *testing.T, err error) *types.Error {
	t.Helper()
	var e *types.Error
	if !errors.As(err, &e) || e.Code != types.ErrTryAgainLater {
		t.Fatalf("error %v is not one that says to try again later", err)
	}
	return e
}

func TestAddWaits(t *testing.T) {
	j := newJoinTest(t)
	j.limit = time.Minute
	j.strict.Store(true)
	done := make(chan error, 1)
	go func() { done <- j.Add(context.Background(), joinRequest) }()
	for _, step := range []func(){
		j.st.MarkSynced,
		func() { j.pod("u1", false) },
		func() { // as it is while its namespace is not known
			j.workload(&model.Workload{Local: true, NetNS: "/run/netns/cni-1", Addresses: joinRequest.Addresses})
			j.programmed()
			j.accepted()
		},
		func() { j.namespace(model.MTLSStrict) },
		func() { // the rows are of the revision before
			j.workload(&model.Workload{MTLS: model.MTLSStrict, Local: true, NetNS: "/run/netns/cni-1", Addresses: joinRequest.Addresses})
		},
		func() {
			tx := j.st.Write(j.st.Programmed)
			j.st.Programmed.Put(tx, &model.Programmed{Subject: joinSubject, Error: "the map is full"})
			tx.Commit()
		},
		j.programmed,
	} {
		select {
		case err := <-done:
			t.Fatalf("returned too early: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		step()
	}
	j.accepted()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestAddEndsWithItsSandbox(t *testing.T) {
	j := newJoinTest(t)
	j.limit = time.Minute
	j.strict.Store(true)
	done := make(chan error, 1)
	go func() { done <- j.Add(context.Background(), joinRequest) }()
	for j.placement() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := j.Delete(context.Background(), joinRequest); err != nil {
		t.Error(err)
	}
	if e := tryLater(t, <-done); !strings.Contains(e.Msg, "deleted") {
		t.Errorf("error %v", e)
	}
	if p := j.placement(); p != nil {
		t.Errorf("placement %+v", p)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := j.Add(ctx, joinRequest); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a plugin that does not wait any more: %v", err)
	}
}

func TestAddWithoutANamedNamespace(t *testing.T) {
	j := newJoinTest(t)
	r := *joinRequest
	r.NetNS = "/proc/0/ns/net"
	if err := j.Add(context.Background(), &r); err != nil {
		t.Errorf("a pod that may go on: %v", err)
	}
	j.strict.Store(true)
	if e := tryLater(t, j.Add(context.Background(), &r)); !strings.Contains(e.Msg, "/proc/0/ns/net") {
		t.Errorf("error %v", e)
	}
}

func TestCollect(t *testing.T) {
	j := newJoinTest(t)
	if err := j.sandboxes.Add(placement.Sandbox{Namespace: "shop", Name: "web", UID: "u1", ContainerID: "c1", NetNS: joinRequest.NetNS}); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []bool{true, false} {
		ids := []string{}
		if keep {
			ids = []string{"c1"}
		}
		if err := j.Collect(context.Background(), &cni.Keep{ContainerIDs: ids}); err != nil {
			t.Fatal(err)
		}
		if j.sandboxes.Has("u1", "c1", "") != keep {
			t.Errorf("keep %v", keep)
		}
	}
}
