package manifests

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
)

// Stdin is the path that stands for standard input.
const Stdin = "-"

// Files is what Read found.
type Files struct {
	Problems []kube.Problem
	// Where has the place of each object.
	Where map[model.ObjectRef]Place
	// Unread are the documents of kinds that the mesh does not read.
	Unread map[model.ObjectRef]Place
	// Workloads are those of them that make pods.
	Workloads []Workload
}

// Place is where a document begins.
type Place struct {
	File string
	Line int // from 1
}

// placeIn returns a place in a file; the zero Place for what is in none.
func placeIn(file string, line int) Place {
	if file == "" {
		return Place{}
	}
	return Place{file, line}
}

// Read reads files, folders and in (as Stdin) into objs, once. Of an object that several paths have, the last counts.
// Documents of kinds that the mesh does not read are not faults: they are usual beside those of the mesh. Services get the
// address that an API server would give them. A path without any document is an error, for most likely it is the wrong one.
func Read(objs *kube.Objects, paths []string, in io.Reader) (*Files, error) {
	return ReadBeside(objs, Cluster{}, paths, in)
}

// Cluster is what is read beside files: documents of a cluster, which have no place.
type Cluster struct {
	Documents [][]byte
	// More returns the documents that the objects of Documents and of the files take besides, and that the files do not have. It is
	// called once, when these are in the tables. Nil is none.
	More func() ([][]byte, error)
}

// ReadBeside is as Read, and reads documents of a cluster too: of an object that a file has as well, the file's counts. A manifest is
// then as old as the object of the cluster that it replaces, and otherwise younger than the cluster's.
func ReadBeside(objs *kube.Objects, c Cluster, paths []string, in io.Reader) (*Files, error) {
	r := &reader{objs: objs, out: &Files{Where: map[model.ObjectRef]Place{}, Unread: map[model.ObjectRef]Place{}}}
	if err := r.readDocuments(c.Documents); err != nil {
		return nil, err
	}
	if len(c.Documents) > 0 {
		r.created = replaced(objs)
	}
	for _, path := range paths {
		if err := r.read(path, in); err != nil {
			return nil, err
		}
	}
	if c.More != nil {
		more, err := c.More()
		if err != nil {
			return nil, err
		}
		if err := r.readDocuments(more); err != nil {
			return nil, err
		}
	}
	return r.out, errors.Join(assignAddresses(objs), assignGatewayAddresses(objs))
}

// reader reads files once, one after the other.
type reader struct {
	objs *kube.Objects
	out  *Files
	// created and newer are those of the decoders.
	created func(metav1.Object, schema.GroupKind) metav1.Time
	newer   bool
}

// replaced returns the creation time of an object that takes the place of one that is there now, or else now.
func replaced(objs *kube.Objects) func(metav1.Object, schema.GroupKind) metav1.Time {
	snap, now := objs.DB.Snapshot(), metav1.Now()
	return func(o metav1.Object, gk schema.GroupKind) metav1.Time {
		if was, ok := objs.Get(snap, gk, kube.Key(o)); ok {
			return was.GetCreationTimestamp()
		}
		return now
	}
}

func (r *reader) read(path string, in io.Reader) error {
	info, err := os.Stat(path)
	switch {
	case path == Stdin:
		return r.readStream("stdin", "stdin", in)
	case err != nil:
		return fmt.Errorf("read manifests: %w", err)
	case info.IsDir():
		return r.readFolder(path)
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	defer file.Close()
	return r.readStream(path, path, file)
}

// folder returns a Folder that was not read yet.
func (r *reader) folder(dir string) *Folder {
	f := NewFolder(dir, r.objs, FolderOptions{Log: slog.New(slog.DiscardHandler)})
	f.decoder.created, f.decoder.newer = r.created, r.newer
	return f
}

// readStream reads one file, whatever its name ends with. Users know it as shown. The text stays in memory: it may have private keys,
// and the program may end at any time.
func (r *reader) readStream(name, shown string, in io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(in, MaxFile+1))
	if err != nil {
		return fmt.Errorf("read manifests: %s: %w", name, err)
	}
	base := filepath.Base(name)
	if !manifestName(base) {
		base = "manifest.yaml"
	}
	f := r.folder(".")
	c := content{path: base}
	if len(text) > MaxFile {
		c.trouble = "cannot be read: " + tooLarge(MaxFile).Error()
	} else {
		c.chunks = f.parse(base, text, nil)
	}
	f.take([]content{c})
	return r.collect(f, name+" has no manifest: it is empty",
		func(string) string { return shown },
		func(string) ([]byte, error) { return text, nil })
}

// readDocuments reads documents that are in no file.
func (r *reader) readDocuments(documents [][]byte) error {
	r.created, r.newer = func(o metav1.Object, _ schema.GroupKind) metav1.Time { return o.GetCreationTimestamp() }, true
	defer func() { r.created, r.newer = nil, false }()
	for _, text := range documents {
		if err := r.readStream("cluster.json", "", bytes.NewReader(text)); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) readFolder(dir string) error {
	f := r.folder(dir)
	if err := f.Load(); err != nil {
		return err
	}
	path := func(file string) string { return filepath.Join(dir, file) }
	return r.collect(f, dir+" has no manifest: files that end in .yaml, .yml or .json are read", path,
		func(file string) ([]byte, error) { return os.ReadFile(path(file)) })
}

// collect adds what a Folder read to the result. shown returns the name by which users know a file of it, "" for what is in no file, and
// text what is in it. empty is the error if it has no document.
func (r *reader) collect(f *Folder, empty string, shown func(string) string, text func(string) ([]byte, error)) error {
	problems := f.problems()  // nothing changes it any more
	with := map[string]bool{} // files that have unread documents
	for _, p := range problems {
		with[p.File] = with[p.File] || unrelated(r.objs, p.Object)
		at := placeIn(shown(p.File), p.Line)
		p.File, p.Line, p.Reason = at.File, at.Line, strings.TrimSuffix(p.Reason, lastGood) // nothing was read before
		if unrelated(r.objs, p.Object) {
			r.out.Unread[p.Object] = at
			continue
		}
		r.out.Problems = append(r.out.Problems, p)
	}
	for _, file := range slices.Sorted(maps.Keys(with)) {
		if !with[file] {
			continue
		}
		data, err := text(file)
		if err != nil {
			return fmt.Errorf("read manifests: %w", err)
		}
		r.out.readWorkloads(file, shown(file), data)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(problems) == 0 && len(f.claims) == 0 {
		return errors.New("read manifests: " + empty)
	}
	for key, paths := range f.claims {
		x := f.files[paths[0]]
		if d := x.good[key]; d != nil {
			r.out.Where[d.ref] = placeIn(shown(paths[0]), x.lineOf(key))
		}
	}
	return nil
}

// unrelated reports whether an object is of a kind that has nothing to do with the mesh.
func unrelated(objs *kube.Objects, o model.ObjectRef) bool {
	if o.Kind == "" || strings.HasSuffix(o.Group, "weft.io") || o.Group == gwv1.GroupName {
		return false
	}
	_, known := objs.Namespaced(schema.GroupKind{Group: o.Group, Kind: o.Kind})
	return !known
}

// serviceRange is for tests of networks (RFC 2544): no manifest has an address of it.
var serviceRange = netip.MustParsePrefix("198.18.0.0/15")

func assignAddresses(objs *kube.Objects) error {
	w := objs.Write()
	defer w.Abort()
	next := binary.BigEndian.Uint32(serviceRange.Addr().AsSlice())
	for s := range objs.Services.All(w.Snapshot()) {
		if s.Spec.ClusterIP != "" || s.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		next++
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], next)
		if !serviceRange.Contains(netip.AddrFrom4(a)) {
			return fmt.Errorf("read manifests: more Services than %s has addresses", serviceRange)
		}
		s = s.DeepCopy()
		s.Spec.ClusterIP = netip.AddrFrom4(a).String()
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		if err := objs.Put(w, s); err != nil {
			return err
		}
	}
	w.Commit()
	return nil
}

// gatewayAddresses are for documentation (RFC 5737), and stand for those that Gateways would get.
var gatewayAddresses = netip.MustParsePrefix("192.0.2.0/25")

// assignGatewayAddresses gives each Gateway an address of its own where no AddressPool is among the manifests. In a cluster there is
// a pool, and on one address all Gateways with a port would conflict. Past the last address they share the node's.
func assignGatewayAddresses(objs *kube.Objects) error {
	w := objs.Write()
	defer w.Abort()
	if objs.AddressPools.Len(w.Snapshot()) > 0 {
		return nil
	}
	addr := gatewayAddresses.Addr()
	for gw := range objs.Gateways.All(w.Snapshot()) {
		if addr = addr.Next(); len(gw.Spec.Addresses) > 0 || !gatewayAddresses.Contains(addr) {
			continue
		}
		gw = gw.DeepCopy()
		gw.Spec.Addresses = []gwv1.GatewaySpecAddress{{Value: addr.String()}}
		if err := objs.Put(w, gw); err != nil {
			return fmt.Errorf("read manifests: address of Gateway %s: %w", kube.Key(gw), err)
		}
	}
	w.Commit()
	return nil
}
