package api

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// sound is a node with nothing wrong but what a test writes into its tables.
type sound struct {
	st   *state.State
	objs *kube.Objects
}

func (s *sound) node() Node { return Node{State: s.st, Objects: s.objs, Dir: "/etc/weft"} }

func newSound() *sound {
	db := state.NewDB()
	s := &sound{st: state.New(db), objs: kube.NewObjects(db)}
	s.st.MarkSynced()
	w := s.st.Write(s.st.Proxies, s.st.Accepted)
	s.st.Proxies.Put(w, &model.Proxy{State: "LIVE"})
	s.st.Accepted.Put(w, &model.Accepted{Subject: model.Envoy})
	w.Commit()
	s.programmed(model.Programmed{Subject: model.Subject{Kind: model.SubjectHook, Name: "connect4"}})
	return s
}

func (s *sound) programmed(p model.Programmed) {
	w := s.st.Write(s.st.Programmed)
	s.st.Programmed.Put(w, &p)
	w.Commit()
}

// TestWhatIsWrongWithAnObjectIsNoFaultOfTheNode: a tenant must not make nodes unhealthy.
func TestWhatIsWrongWithAnObjectIsNoFaultOfTheNode(t *testing.T) {
	ref := func(kind string) model.ObjectRef { return model.ObjectRef{Kind: kind, Namespace: "ns", Name: "x"} }
	refused := func(refs ...model.ObjectRef) func(*sound) {
		return func(s *sound) {
			var objects []model.ObjectVersion
			for _, r := range refs {
				objects = append(objects, model.ObjectVersion{ObjectRef: r})
			}
			w := s.st.Write(s.st.Rejections)
			s.st.Rejections.Put(w, &model.Rejection{Resource: "Listener/x", Objects: objects, Message: "no"})
			w.Commit()
		}
	}
	problem := func(p kube.Problem) func(*sound) {
		return func(s *sound) {
			w := s.st.Write(s.objs.Problems)
			s.objs.Problems.Put(w, &p)
			w.Commit()
		}
	}
	status := func(st *model.Status) func(*sound) {
		return func(s *sound) {
			w := s.st.Write(s.st.Statuses)
			s.st.Statuses.Put(w, st)
			w.Commit()
		}
	}
	failed := []model.Condition{{Type: model.ConditionAccepted, Reason: "Invalid"}}
	for _, c := range []struct {
		name   string
		damage func(*sound)
		fault  string // "" if it is none of the node
	}{
		{"nothing", func(*sound) {}, ""},
		{"a Gateway that is not accepted, without an address", status(&model.Status{Object: ref("Gateway"), Conditions: failed}), ""},
		{"a route that is not accepted", status(&model.Status{Object: ref("HTTPRoute"), Parents: []model.ParentStatus{{Parent: ref("Gateway"), Conditions: failed}}}), ""},
		{"a manifest that cannot be read", problem(kube.Problem{File: "a.yaml", Line: 3, Object: ref("Pod"), Reason: "bad"}), ""},
		{"a document without a kind", problem(kube.Problem{File: "a.yaml", Line: 3, Reason: "bad"}), ""},
		{"an object of a cluster that is not understood", problem(kube.Problem{File: "kubernetes", Object: ref("Namespace"), Reason: "bad"}), ""},
		{"a folder that cannot be read", problem(kube.Problem{File: ".", Reason: "permission denied"}), "permission denied"},
		{"a kind that cannot be read", problem(kube.Problem{File: "kubernetes", Object: model.ObjectRef{Kind: "Pod"}, Reason: "forbidden"}), "forbidden"},
		{"a refused route", refused(ref("Service"), ref("HTTPRoute")), ""},
		{"a refused policy", refused(ref("Pod"), ref("AuthorizationPolicy")), ""},
		{"a refused certificate", refused(ref("Secret")), ""},
		{"a refused listener of a Gateway", refused(ref("Gateway")), ""},
		{"a refused listener of a pod", refused(ref("Pod")), "Listener/x"},
		{"a listener of a pod that has the port", func(s *sound) {
			w := s.st.Write(s.st.Rejections)
			s.st.Rejections.Put(w, &model.Rejection{
				Resource: "Listener/x", Objects: []model.ObjectVersion{{ObjectRef: ref("Pod")}},
				Message: "error adding listener '10.0.0.1:15006': cannot bind '10.0.0.1:15006': Address already in use",
			})
			w.Commit()
		}, ""},
		{"a refused cluster of a Service", refused(ref("Service")), "Listener/x"},
		{"a refused constant", refused(), "Listener/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSound()
			c.damage(s)
			got := NewStatus(s.node(), time.Now())
			all := strings.Join(got.Faults, "\n")
			if c.fault == "" && (!got.Healthy || all != "") || !strings.Contains(all, c.fault) || got.Healthy != (c.fault == "") {
				t.Errorf("healthy %t, faults %q, want %q", got.Healthy, all, c.fault)
			}
		})
	}
}

// TestFaultsOfTheDatapath: each row that reports something is a fault, and of many of a kind the most are only counted.
func TestFaultsOfTheDatapath(t *testing.T) {
	row := func(kind model.SubjectKind, name, err string) func(*sound) {
		return func(s *sound) {
			s.programmed(model.Programmed{Subject: model.Subject{Kind: kind, Name: name}, Error: err})
		}
	}
	usage := func(m model.MapUsage) func(*sound) {
		return func(s *sound) {
			w := s.st.Write(s.st.MapUsage)
			s.st.MapUsage.Put(w, &m)
			w.Commit()
		}
	}
	for _, c := range []struct {
		name   string
		damage func(*sound)
		faults []string
	}{
		{"a hook", row(model.SubjectHook, "connect4", "the program was detached"), []string{"datapath: hook connect4: the program was detached"}},
		{"a hook of a pod", row(model.SubjectHook, "sk_lookup/ns/x", "the program was replaced"), []string{"datapath: hook sk_lookup/ns/x: the program was replaced"}},
		{"a workload", row(model.SubjectWorkload, "ns/x", "map pods: full"), []string{"datapath: workload ns/x: map pods: full"}},
		{"the pins", row(model.SubjectNode, "pins", "a pin was removed"), []string{"datapath: node pins: a pin was removed"}},
		{"no hooks", func(s *sound) {
			w := s.st.Write(s.st.Programmed)
			s.st.Programmed.Delete(w, "hook/connect4")
			w.Commit()
		}, []string{"datapath: no eBPF program is attached"}},
		{"a map with room", usage(model.MapUsage{Name: "peers", Entries: 94, Max: 100}), nil},
		{"a map without", usage(model.MapUsage{Name: "peers", Entries: 95, Max: 100}), []string{"datapath: map peers is full, or nearly so (95 of 100)"}},
		{"a cache", usage(model.MapUsage{Name: "reverse", Entries: 100, Max: 100, Cache: true}), nil},
		{"many services", func(s *sound) {
			for i := range maxFailures + 2 {
				row(model.SubjectService, fmt.Sprintf("ns/%d", i), "full")(s)
			}
		}, []string{
			"datapath: service ns/0: full", "datapath: service ns/1: full", "datapath: service ns/2: full", "datapath: service ns/3: full",
			"datapath: service ns/4: full", "datapath: and 2 more objects that the kernel does not hold as it should",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSound()
			c.damage(s)
			if got := NewStatus(s.node(), time.Now()).Faults; !slices.Equal(got, c.faults) {
				t.Errorf("faults %q, want %q", got, c.faults)
			}
		})
	}
}
