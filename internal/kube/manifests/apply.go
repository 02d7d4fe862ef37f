package manifests

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// take puts new contents of files into the tables, in one transaction. It gives the time at which objects that went
// have to leave, or zero.
func (f *Folder) take(contents []content) (leave time.Time) {
	if len(contents) == 0 {
		return time.Time{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	touched := map[objectKey]struct{}{}
	report := false
	for _, c := range contents {
		x := f.files[c.path]
		if x == nil {
			if c.gone {
				continue
			}
			x = &file{}
			f.files[c.path] = x
		}
		_, troubled := f.troubled[c.path]
		before := x.provided()
		x.update(c, before)
		f.reclaim(c.path, before, x.provided(), touched)
		if len(x.leaving) > 0 {
			leave = time.Now().Add(graceTime)
			f.leaving[c.path] = leave
		} else if c.gone {
			delete(f.files, c.path)
		}
		report = f.note(c.path, x) || troubled || report
	}
	f.settle(touched, report)
	return leave
}

// note remembers whether a file has problems.
func (f *Folder) note(path string, x *file) bool {
	if len(x.problems(path)) > 0 {
		f.troubled[path] = struct{}{}
		return true
	}
	delete(f.troubled, path)
	return false
}

// depart withdraws what has been leaving for the grace time, and gives the time at which the next has to, or zero.
func (f *Folder) depart(now time.Time) (next time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	touched := map[objectKey]struct{}{}
	for path, at := range f.leaving {
		if now.Before(at) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			continue
		}
		delete(f.leaving, path)
		x := f.files[path]
		if x == nil {
			continue
		}
		before := x.provided()
		x.leaving = nil
		f.reclaim(path, before, x.provided(), touched)
		if len(x.provided()) == 0 && len(x.chunks) == 0 && x.trouble == "" && x.sig == (signature{}) {
			delete(f.files, path)
		}
	}
	if len(touched) > 0 {
		f.settle(touched, false)
	}
	return next
}

// reclaim moves a file's claims from what it provided before to what it provides now, and notes what differs.
func (f *Folder) reclaim(path string, before, after map[objectKey]claim, touched map[objectKey]struct{}) {
	for k, was := range before {
		now, still := after[k]
		if still && now == was {
			continue
		}
		touched[k] = struct{}{}
		if still {
			continue
		}
		c := f.claims[k]
		if i, ok := slices.BinarySearch(c, path); ok {
			c = slices.Delete(c, i, i+1)
		}
		if f.claims[k] = c; len(c) == 0 {
			delete(f.claims, k)
		}
	}
	for k := range after {
		if _, had := before[k]; had {
			continue
		}
		touched[k] = struct{}{}
		c := f.claims[k]
		if i, ok := slices.BinarySearch(c, path); !ok {
			f.claims[k] = slices.Insert(c, i, path)
		}
	}
}

// settle decides which file's version of each touched object stands, writes it, and reports.
func (f *Folder) settle(touched map[objectKey]struct{}, report bool) {
	if len(touched) > 0 {
		w := f.objs.Write(kindsOf(touched)...)
		for k := range touched {
			report = f.decide(w, k) || report
		}
		w.Commit()
	}
	if report {
		f.report()
	}
}

// decide installs the version of an object that stands. It reports whether files differ about it, or did.
func (f *Folder) decide(w *state.Write, k objectKey) (contested bool) {
	doc, rivals := f.winner(k)
	_, was := f.contested[k]
	if rivals > 1 {
		f.contested[k] = struct{}{}
	} else {
		delete(f.contested, k)
	}
	f.install(w, k, doc)
	return was || rivals > 1
}

// kindsOf returns the kinds of objects, each once.
func kindsOf(objects map[objectKey]struct{}) []schema.GroupKind {
	var kinds []schema.GroupKind
	for k := range objects {
		name, _, _ := strings.Cut(string(k), "/")
		if gk := schema.ParseGroupKind(name); !slices.Contains(kinds, gk) {
			kinds = append(kinds, gk)
		}
	}
	return kinds
}

// winner returns the version of an object that stands, and how many files hold one.
func (f *Folder) winner(k objectKey) (doc *document, rivals int) {
	var leaving, standIn *document
	for _, path := range f.claims[k] {
		x := f.files[path]
		switch d := x.live(k); {
		case d != nil && d.standsIn():
			standIn = d
		case d != nil:
			if rivals++; doc == nil {
				doc = d
			}
		case leaving == nil:
			leaving = x.leaving[k]
		}
	}
	if leaving != nil && leaving.standsIn() {
		standIn, leaving = cmp.Or(standIn, leaving), nil
	}
	return cmp.Or(doc, leaving, standIn), rivals
}

// install makes a document's object the one in the table; nil removes it.
func (f *Folder) install(w *state.Write, k objectKey, doc *document) {
	was, had := f.installed[k]
	var err error
	switch {
	case doc == nil && !had, had && was.doc == doc:
		return
	case doc == nil:
		delete(f.installed, k)
		err = f.objs.Delete(w, was.doc.gk, model.Key(was.doc.ref.Namespace, was.doc.ref.Name))
	default:
		now := installed{doc: doc, obj: doc.obj, generation: 1}
		if had {
			now.generation = was.generation
			if was.doc.spec != doc.spec {
				now.generation++
			}
		}
		if doc.installed {
			now.obj = doc.obj.DeepCopyObject()
		}
		doc.installed = true
		meta := now.obj.(metav1.Object)
		meta.SetGeneration(now.generation)
		meta.SetUID(uid(k))
		if err = f.objs.Put(w, now.obj); err == nil {
			f.installed[k] = now
		}
	}
	if err != nil {
		f.log.Error("failed to store an object of a manifest", "object", k, "error", err)
	}
}

// uid makes an object's UID from its name, so that it is the same after every start.
func uid(k objectKey) types.UID {
	h := sha256.Sum256([]byte(k))
	h[6], h[8] = h[6]&0x0f|0x80, h[8]&0x3f|0x80 // version 8 (RFC 9562): made by its owner's own rule
	return types.UID(fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16]))
}

// problems lists what was not taken, sorted by file and line.
func (f *Folder) problems() []kube.Problem {
	out := []kube.Problem{}
	if f.outside != nil {
		out = append(out, *f.outside)
	}
	for path := range f.troubled {
		if x := f.files[path]; x != nil {
			out = append(out, x.problems(path)...)
		}
	}
	for path, reason := range f.blocked {
		out = append(out, kube.Problem{File: path, Reason: reason})
	}
	for k := range f.contested {
		first := ""
		for _, path := range f.claims[k] {
			d := f.files[path].live(k)
			switch {
			case d == nil, d.standsIn():
			case first == "":
				first = path
			default:
				out = append(out, kube.Problem{
					File: path, Line: f.files[path].lineOf(k), Object: d.ref,
					Reason: "is in " + first + " too, which comes first and counts",
				})
			}
		}
	}
	for i := range out {
		out[i] = out[i].Bounded()
	}
	slices.SortFunc(out, func(a, b kube.Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}

// maxLogged is how many new problems one change may log; Objects.Problems has them all.
const maxLogged = 20

// report writes the problems as rows, and logs those that are new.
func (f *Folder) report() {
	all := f.problems()
	now := make(map[kube.Problem]struct{}, len(all))
	logged := 0
	w := f.objs.DB.Write(f.objs.Problems)
	defer w.Commit()
	for _, p := range all {
		now[p] = struct{}{}
		if _, ok := f.reported[p]; ok {
			continue
		}
		f.objs.Problems.Put(w, &p)
		if logged++; logged <= maxLogged {
			f.log.Warn("failed to load a manifest", slog.String("file", p.File), slog.Int("line", p.Line),
				slog.String("object", objectText(p)), slog.String("reason", p.Reason))
		}
	}
	if logged > maxLogged {
		f.log.Warn("failed to load more manifests; see weft status", "count", logged-maxLogged)
	}
	for p := range f.reported {
		if _, ok := now[p]; !ok {
			f.objs.Problems.Delete(w, p.Key())
		}
	}
	f.reported = now
}

func objectText(p kube.Problem) string {
	if p.Object.Kind == "" {
		return ""
	}
	return p.Object.String()
}
