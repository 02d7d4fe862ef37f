package state

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/weft-mesh/weft/internal/model"
)

func TestReadersOfWhatChanged(t *testing.T) {
	st := New(NewDB())
	feed := st.Feed()
	defer feed.Close()
	put := func(name, addr string) {
		w := st.Write(st.Workloads)
		st.Workloads.Put(w, &model.Workload{Namespace: "ns", Name: name, Addresses: []netip.Addr{netip.MustParseAddr(addr)}})
		w.Commit()
	}
	put("a", "10.0.0.1")
	deps := NewDeps[string]()
	read := func(reader string, f func(s *Snapshot)) {
		s := st.Track()
		f(s)
		deps.Set(reader, s.Reads())
	}
	read("a", func(s *Snapshot) { st.Workloads.Get(s, "ns/a") })
	read("missing", func(s *Snapshot) { st.Workloads.Get(s, "ns/b") })
	read("address", func(s *Snapshot) { _ = slices.Collect(st.Workloads.By(s, ByAddress, "10.0.0.2")) })
	read("all", func(s *Snapshot) { _ = slices.Collect(st.Workloads.All(s)) })
	for _, step := range []struct {
		what string
		do   func()
		want []string
	}{
		{"equal object", func() { put("a", "10.0.0.1") }, nil},
		{"other object", func() { put("c", "10.0.0.3") }, []string{"all"}},
		{"object appears", func() { put("b", "10.0.0.4") }, []string{"all", "missing"}},
		{"moves into an index value", func() { put("a", "10.0.0.2") }, []string{"a", "address", "all"}},
		{"moves out of it", func() { put("a", "10.0.0.1") }, []string{"a", "address", "all"}},
		{"deleted", func() {
			w := st.Write(st.Workloads)
			st.Workloads.Delete(w, "ns/b")
			st.Workloads.Delete(w, "ns/nothing")
			w.Commit()
		}, []string{"all", "missing"}},
		{"aborted", func() {
			w := st.Write(st.Workloads)
			st.Workloads.Delete(w, "ns/a")
			w.Abort()
		}, nil},
	} {
		feed.Take()
		step.do()
		keys, _ := feed.Take()
		var got []string
		for r := range deps.Dirty(keys) {
			got = append(got, r)
		}
		slices.Sort(got)
		if !slices.Equal(got, step.want) {
			t.Errorf("%s: dirty readers %v, want %v", step.what, got, step.want)
		}
	}
}

func TestIndexesDoNotMixPrefixes(t *testing.T) {
	st := New(NewDB())
	w := st.Write(st.Endpoints, st.Services)
	for _, n := range []string{"a", "ab", "abc"} {
		st.Services.Put(w, &model.Service{Namespace: "ns", Name: n, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}})
	}
	w.Commit()
	s := st.Snapshot()
	if _, ok := st.Services.Get(s, "ns/"); ok {
		t.Error("a prefix of a key found an object")
	}
	if n := len(slices.Collect(st.Services.By(s, ByAddress, "10.0.0.1"))); n != 3 {
		t.Errorf("index holds %d objects, want 3", n)
	}
	if n := len(slices.Collect(st.Services.By(s, ByAddress, "10.0.0."))); n != 0 {
		t.Errorf("a prefix of an index value found %d objects", n)
	}
}

func TestDepsForget(t *testing.T) {
	d := NewDeps[int]()
	table := TableID{&tableName{"t"}}
	shared, own := Key{table, "", "shared"}, Key{table, "", "own"}
	const readers = 3 * fewReaders // an array at first, then a map too
	for r := range readers {
		d.Set(r, map[Key]struct{}{shared: {}, own: {}})
	}
	for r := range readers {
		d.Set(r, map[Key]struct{}{shared: {}})
	}
	if n := len(d.Dirty(map[Key]struct{}{own: {}})); n != 0 {
		t.Errorf("%d readers of a key that nobody reads any more", n)
	}
	if n := len(d.Dirty(map[Key]struct{}{shared: {}})); n != readers {
		t.Errorf("%d readers, want %d", n, readers)
	}
	for r := range readers {
		d.Remove(r)
	}
	if len(d.numbers) != 0 || len(d.readers) != 0 || len(d.free) != len(d.all)-1 {
		t.Errorf("%d readers and %d keys left after all were removed; %d of %d numbers are free",
			len(d.numbers), len(d.readers), len(d.free), len(d.all)-1)
	}
}

func TestRevisionFollowsChanges(t *testing.T) {
	st := New(NewDB())
	put := func(node string) uint64 {
		w := st.Write(st.Workloads)
		st.Workloads.Put(w, &model.Workload{Namespace: "ns", Name: "a", Node: node})
		w.Commit()
		_, rev, ok := st.Workloads.Revision(st.Snapshot(), "ns/a")
		if !ok || rev == 0 {
			t.Fatalf("revision %d, found %v", rev, ok)
		}
		return rev
	}
	first := put("n1")
	if same := put("n1"); same != first {
		t.Errorf("an equal object moved the revision from %d to %d", first, same)
	}
	if next := put("n2"); next <= first {
		t.Errorf("a change moved the revision from %d to %d", first, next)
	}
	if _, rev, ok := st.Workloads.Revision(st.Snapshot(), "ns/b"); ok || rev != 0 {
		t.Errorf("a missing row has revision %d, found %v", rev, ok)
	}
}

// A feed of some tables is woken by commits that change one of them, and takes these whole.
func TestFeedOfTables(t *testing.T) {
	st := New(NewDB())
	feed := st.Feed(st.Services, st.Nodes)
	defer feed.Close()
	commit := func(write func(w *Write)) {
		w := st.Write(st.Workloads, st.Services)
		write(w)
		w.Commit()
	}
	workload := func(w *Write, name string) { st.Workloads.Put(w, &model.Workload{Namespace: "ns", Name: name}) }
	service := func(w *Write) { st.Services.Put(w, &model.Service{Namespace: "ns", Name: "s"}) }
	ready := func() bool {
		select {
		case <-feed.Ready():
			return true
		default:
			return false
		}
	}
	commit(func(w *Write) { workload(w, "a") })
	if keys, _ := feed.Take(); ready() || len(keys) != 0 {
		t.Errorf("a commit to another table gave %v", keys)
	}
	commit(func(w *Write) { workload(w, "b"); service(w) })
	keys, snap := feed.Take()
	if _, ok := keys[Key{Table: st.Services.ID(), Value: "ns/s"}]; !ready() || !ok {
		t.Errorf("a commit to a table of the feed gave %v", keys)
	}
	if _, ok := st.Workloads.Get(snap, "ns/a"); !ok {
		t.Error("the snapshot lacks a commit to another table that came before")
	}
	commit(service)
	if keys, _ := feed.Take(); ready() || len(keys) != 0 {
		t.Errorf("a commit that changed nothing gave %v", keys)
	}
}
