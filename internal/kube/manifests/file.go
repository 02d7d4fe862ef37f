package manifests

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	weftv1 "github.com/weft-mesh/weft/internal/kube/api/v1alpha1"
	"github.com/weft-mesh/weft/internal/model"
)

// graceTime is how long an object is kept after it went from its file. Editors move files away and write them anew.
const graceTime = 100 * time.Millisecond

// signature changes when a file does.
type signature struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// file is what the folder knows of one file.
type file struct {
	sig  signature
	link bool
	// target is where a link leads, "" for others.
	target string
	chunks []parsedChunk
	good   map[objectKey]*document
	// kept are last good versions: of bad documents, or of all that is missing while the file cannot be understood.
	kept map[objectKey]*document
	// leaving are gone from the file and kept until the grace time is over.
	leaving map[objectKey]*document
	// repeated are documents of objects that the file already has further up.
	repeated []*document
	trouble  string // why the file as a whole was not taken
}

// parsedChunk is a document's text and what came of it.
type parsedChunk struct {
	line int
	hash uint64
	docs []*document
}

// content is a file as it was just read.
type content struct {
	path    string
	gone    bool
	sig     signature
	link    bool
	target  string
	trouble string
	chunks  []parsedChunk
}

func fileSignature(info fs.FileInfo) signature {
	s := signature{size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.dev, s.ino, s.mtime, s.ctime = st.Dev, st.Ino, st.Mtim, st.Ctim
	}
	return s
}

// read reads and parses a file, whose last version was old.
func (f *Folder) read(path string, old []parsedChunk) content {
	c := content{path: path}
	full := filepath.Join(f.dir, path)
	if info, err := os.Lstat(full); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		c.link = true
		// A dangling link fails to open below, which says it better.
		if c.target, err = filepath.EvalSymlinks(full); err == nil {
			f.onTarget(filepath.Dir(c.target))
		}
	}
	data, sig, err := readRegular(full, f.opts.MaxFile)
	c.sig = sig
	switch {
	case err != nil && errors.Is(err, fs.ErrNotExist) && !c.link:
		c.gone = true
		return c
	case err != nil:
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		c.trouble = "cannot be read: " + err.Error()
		return c
	}
	c.chunks = f.parse(path, data, old)
	return c
}

// parse parses the text of a file. Chunks that the last version had are not parsed again.
func (f *Folder) parse(path string, data []byte, old []parsedChunk) []parsedChunk {
	known := make(map[uint64][]*document, len(old))
	for _, p := range old {
		known[p.hash] = p.docs
	}
	chunks := splitFile(path, data)
	out := make([]parsedChunk, len(chunks))
	var fresh []int // the first of each text
	for i, ch := range chunks {
		p := parsedChunk{line: ch.line, hash: ch.hash()}
		if _, ok := known[p.hash]; !ok {
			known[p.hash] = nil
			fresh = append(fresh, i)
		}
		out[i] = p
	}
	parsed := make([][]*document, len(fresh))
	inParallel(len(fresh), func(i int) { parsed[i] = f.decoder.chunk(chunks[fresh[i]]) })
	for i, at := range fresh {
		known[out[at].hash] = parsed[i]
	}
	for i := range out {
		out[i].docs = known[out[i].hash]
	}
	return out
}

// readRegular reads a file that is neither a pipe nor a device (opening one could wait for ever) nor too large.
func readRegular(path string, limit int64) ([]byte, signature, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, signature{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, signature{}, err
	}
	sig := fileSignature(info)
	if !info.Mode().IsRegular() {
		return nil, sig, errors.New("is not a regular file")
	}
	if info.Size() > limit {
		return nil, sig, tooLarge(limit)
	}
	buf := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	if _, err := buf.ReadFrom(io.LimitReader(file, limit+1)); err != nil {
		return nil, sig, err
	}
	if int64(buf.Len()) > limit { // it grew meanwhile
		return nil, sig, tooLarge(limit)
	}
	return buf.Bytes(), sig, nil
}

func tooLarge(limit int64) error { return fmt.Errorf("is larger than %d bytes", limit) }

// claim is a file's version of an object. One that is not live is about to leave.
type claim struct {
	doc  *document
	live bool
}

// provided are all objects that the file stands for now.
func (x *file) provided() map[objectKey]claim {
	out := make(map[objectKey]claim, len(x.good)+len(x.kept)+len(x.leaving))
	for k, d := range x.leaving {
		out[k] = claim{d, false}
	}
	for k, d := range x.kept {
		out[k] = claim{d, true}
	}
	for k, d := range x.good {
		out[k] = claim{d, true}
	}
	return out
}

// live returns the file's version of an object, unless it is about to leave.
func (x *file) live(k objectKey) *document {
	if d := x.good[k]; d != nil {
		return d
	}
	return x.kept[k]
}

// update takes a new content in. What was provided before and is not now is kept where the file cannot be understood,
// and begins to leave elsewhere.
func (x *file) update(c content, before map[objectKey]claim) {
	x.sig, x.link, x.target, x.trouble, x.chunks = c.sig, c.link, c.target, c.trouble, c.chunks
	x.good, x.kept, x.leaving, x.repeated = make(map[objectKey]*document, len(c.chunks)), nil, nil, nil
	unclear := c.trouble != ""
	badOnes := map[objectKey]bool{}
	var strange []model.ObjectRef // of kinds that are not known
	var standIns []*document
	for _, p := range c.chunks {
		for _, d := range p.docs {
			if d.standIn != nil {
				standIns = append(standIns, d.standIn)
			}
			switch k := d.key; {
			case d.obj != nil && x.good[k] != nil:
				x.repeated = append(x.repeated, d)
			case d.obj != nil:
				x.good[k] = d
			case d.unclear():
				unclear = true
			case k == "":
				strange = append(strange, d.ref)
			default:
				badOnes[k] = true
			}
		}
	}
	for k, c := range before {
		switch {
		case x.good[k] != nil:
		case unclear || badOnes[k] || sameNameOtherKind(strange, c.doc.ref):
			put(&x.kept, k, c.doc)
		default:
			put(&x.leaving, k, c.doc)
		}
	}
	x.close(standIns)
}

// sameNameOtherKind reports whether refs contains an object with r's name and namespace but a different kind. A kind of the mesh's own group that nobody knows is a typing
// error, and must not withdraw the policy that was there. Of other groups there are kinds that have nothing to do with
// the mesh, and often one name for several of them.
func sameNameOtherKind(refs []model.ObjectRef, r model.ObjectRef) bool {
	return r.Group == weftv1.Group && slices.ContainsFunc(refs, func(o model.ObjectRef) bool {
		return o.Group == r.Group && o.Name == r.Name && cmp.Or(o.Namespace, metav1.NamespaceDefault) == cmp.Or(r.Namespace, metav1.NamespaceDefault)
	})
}

// close puts stand-ins where there is no good version.
func (x *file) close(standIns []*document) {
	for _, d := range standIns {
		if kept := x.kept[d.key]; x.good[d.key] != nil || kept != nil && !kept.standsIn() {
			continue
		}
		put(&x.kept, d.key, d)
		delete(x.leaving, d.key)
	}
}

// unclear is true for a bad document that does not say for sure which object it is.
func (d *document) unclear() bool {
	if d.obj != nil {
		return false
	}
	for _, f := range d.faults {
		if f.syntax {
			return true
		}
	}
	return !d.known()
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

// problems lists what the file's documents have, except objects that other files hold.
func (x *file) problems(path string) []kube.Problem {
	if x.trouble != "" {
		return []kube.Problem{{File: path, Reason: x.trouble + x.keptAll()}}
	}
	var out []kube.Problem
	repeated := map[*document]bool{}
	for _, d := range x.repeated {
		repeated[d] = true
	}
	seen := map[*document]int{}
	for _, p := range x.chunks {
		for _, d := range p.docs {
			seen[d]++
			if repeated[d] && (seen[d] > 1 || x.good[d.key] != d) {
				out = append(out, kube.Problem{File: path, Line: p.line + d.line, Object: d.ref, Reason: "the file has this object already, further up"})
			}
			for _, f := range d.faults {
				out = append(out, kube.Problem{File: path, Line: p.line + f.line, Object: d.ref, Reason: f.reason + x.keptNote(d)})
			}
		}
	}
	return out
}

// keptAll says what is in force while the file as a whole was not taken.
func (x *file) keptAll() string {
	if len(x.kept) > 0 {
		return lastGood
	}
	return ""
}

// keptNote says what is in force instead of a bad document.
func (x *file) keptNote(d *document) string {
	key := d.key
	if d.standIn != nil {
		key = d.standIn.key
	}
	switch kept := x.kept[key]; {
	case kept != nil && kept.standsIn():
		return "; " + kept.note
	case kept == nil && d.obj == nil && x.open(d.ref):
		return noStandIn
	case kept != nil, d.unclear() && len(x.kept) > 0, key == "" && x.keepsOtherKind(d.ref):
		return lastGood
	}
	return ""
}

// open reports whether an object is a Pod of which nothing is in force.
func (x *file) open(r model.ObjectRef) bool {
	if r.Group != "" || r.Kind != "Pod" {
		return false
	}
	key := objectKey("Pod/" + model.Key(r.Namespace, r.Name))
	return x.kept[key] == nil && x.good[key] == nil
}

func (x *file) keepsOtherKind(r model.ObjectRef) bool {
	for _, kept := range x.kept {
		if sameNameOtherKind([]model.ObjectRef{r}, kept.ref) {
			return true
		}
	}
	return false
}

const lastGood = "; the last good version stays in force"

// lineOf returns the line of an object in the file.
func (x *file) lineOf(k objectKey) int {
	for _, p := range x.chunks {
		for _, d := range p.docs {
			if d.key == k {
				return p.line + d.line
			}
		}
	}
	return 0
}
