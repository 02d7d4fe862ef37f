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

// Read reads files, folders and in (as Stdin) into objs, once. Of an object that several paths have, the last counts.
// Documents of kinds that the mesh does not read are not faults: they are usual beside those of the mesh. Services get the
// address that an API server would give them. A path without any document is an error, for most likely it is the wrong one.
func Read(objs *kube.Objects, paths []string, in io.Reader) (*Files, error) {
	return ReadBeside(objs, nil, paths, in)
}

// ReadBeside is as Read, and reads documents before the files: those of a cluster, which have no place.
func ReadBeside(objs *kube.Objects, documents [][]byte, paths []string, in io.Reader) (*Files, error) {
	out := &Files{Where: map[model.ObjectRef]Place{}, Unread: map[model.ObjectRef]Place{}}
	if err := out.readDocuments(objs, documents); err != nil {
		return nil, err
	}
	for _, path := range paths {
		if err := out.read(objs, path, in); err != nil {
			return nil, err
		}
	}
	return out, errors.Join(assignAddresses(objs), assignGatewayAddresses(objs))
}

func (o *Files) read(objs *kube.Objects, path string, in io.Reader) error {
	info, err := os.Stat(path)
	switch {
	case path == Stdin:
		return o.readStream(objs, "stdin", "stdin", in)
	case err != nil:
		return fmt.Errorf("read manifests: %w", err)
	case info.IsDir():
		return o.readFolder(objs, path, fmt.Sprintf("%s has no manifest: files that end in .yaml, .yml or .json are read", path),
			func(file string) string { return filepath.Join(path, file) })
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	defer file.Close()
	return o.readStream(objs, path, path, file)
}

// readStream reads one file, whatever its name ends with. Users know it as shown.
func (o *Files) readStream(objs *kube.Objects, name, shown string, in io.Reader) error {
	dir, err := os.MkdirTemp("", "weft-manifests")
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	defer os.RemoveAll(dir)
	base := filepath.Base(name)
	if !manifestName(base) {
		base = "manifest.yaml"
	}
	file, err := os.Create(filepath.Join(dir, base))
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	_, err = io.Copy(file, io.LimitReader(in, defaultMaxFile+1)) // one byte more: the folder says that it is too large
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("read manifests: %s: %w", name, err)
	}
	return o.readFolder(objs, dir, name+" has no manifest: it is empty", func(string) string { return shown })
}

// readDocuments reads documents that are in no file.
func (o *Files) readDocuments(objs *kube.Objects, documents [][]byte) error {
	for _, text := range documents {
		if err := o.readStream(objs, "cluster.json", "", bytes.NewReader(text)); err != nil {
			return err
		}
	}
	for i := range o.Problems {
		o.Problems[i].Line = 0
	}
	for i := range o.Workloads {
		o.Workloads[i].At = Place{}
	}
	for _, places := range []map[model.ObjectRef]Place{o.Where, o.Unread} {
		for ref := range places {
			places[ref] = Place{}
		}
	}
	return nil
}

// readFolder reads the folder dir. shown gives the name by which users know a file of it, empty is the error if it has no
// document.
func (o *Files) readFolder(objs *kube.Objects, dir, empty string, shown func(string) string) error {
	f := NewFolder(dir, objs, FolderOptions{Log: slog.New(slog.DiscardHandler)})
	if err := f.Load(); err != nil {
		return err
	}
	problems := f.problems()  // nothing changes it any more
	with := map[string]bool{} // files that have unread documents
	for _, p := range problems {
		with[p.File] = with[p.File] || unrelated(objs, p.Object)
		p.File, p.Reason = shown(p.File), strings.TrimSuffix(p.Reason, lastGood) // nothing was read before
		if unrelated(objs, p.Object) {
			o.Unread[p.Object] = Place{p.File, p.Line}
			continue
		}
		o.Problems = append(o.Problems, p)
	}
	for _, file := range slices.Sorted(maps.Keys(with)) {
		if with[file] {
			if err := o.readWorkloads(dir, file, shown(file)); err != nil {
				return err
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(problems) == 0 && len(f.claims) == 0 {
		return errors.New("read manifests: " + empty)
	}
	for key, paths := range f.claims {
		x := f.files[paths[0]]
		if d := x.good[key]; d != nil {
			o.Where[d.ref] = Place{shown(paths[0]), x.lineOf(key)}
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
