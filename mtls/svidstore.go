package mtls

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/atomicfile"
	"github.com/weft-mesh/weft/internal/model"
)

const (
	maxSVIDFile = 256 << 10 // bytes; key and chain have about 2 KiB
	bundleFile  = "bundle.pem"
)

// SVIDStore keeps SVIDs and the trust bundle in a folder that only its owner can read, so that a node that starts
// without its CA has what it had before. A nil store keeps nothing.
type SVIDStore struct{ td, dir string }

// OpenSVIDStore makes the folder, and refuses one that others can read.
func OpenSVIDStore(td, dir string) (*SVIDStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("mtls: keep SVIDs: %w", err)
	}
	if err := private(dir); err != nil {
		return nil, fmt.Errorf("mtls: keep SVIDs: %w", err)
	}
	return &SVIDStore{td, dir}, nil
}

// path is <namespace>_<service account>.pem: neither name can hold an underscore.
func (s *SVIDStore) path(id model.Identity) (string, error) {
	ns, sa, err := ParseIdentity(s.td, id)
	if err != nil {
		return "", err
	}
	return filepath.Join(s.dir, ns+"_"+sa+".pem"), nil
}

// load gives an SVID that was kept and that the bundle verifies now, else nil.
func (s *SVIDStore) load(id model.Identity, bundle *model.Bundle, now time.Time) *model.SVID {
	if s == nil || bundle == nil {
		return nil
	}
	path, err := s.path(id)
	if err != nil {
		return nil
	}
	data, err := readPrivate(path)
	if err != nil {
		return nil
	}
	key, chain := pem.Decode(data)
	if key == nil || key.Type != "PRIVATE KEY" {
		return nil
	}
	svid, err := parseSVID(id, chain, pem.EncodeToMemory(key))
	if err != nil || verifySVID(svid, bundle, now) != nil {
		return nil
	}
	return svid
}

// save replaces what was kept of the identity.
func (s *SVIDStore) save(svid *model.SVID) error {
	if s == nil {
		return nil
	}
	path, err := s.path(svid.Identity)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(append([]byte{}, svid.KeyPEM...), svid.ChainPEM...), 0o600)
}

func (s *SVIDStore) remove(id model.Identity) error {
	if s == nil {
		return nil
	}
	path, err := s.path(id)
	if err != nil {
		return nil // none was ever kept
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes all but what is kept of these identities, and what an interrupted write left.
func (s *SVIDStore) sweep(keep map[model.Identity]bool) error {
	if s == nil {
		return nil
	}
	stay := map[string]bool{filepath.Join(s.dir, bundleFile): true}
	for id := range keep {
		if path, err := s.path(id); err == nil {
			stay[path] = true
		}
	}
	files, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		path := filepath.Join(s.dir, f.Name())
		if ours := strings.HasSuffix(path, ".pem") || strings.HasPrefix(f.Name(), ".new-"); ours && !stay[path] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// bundle gives the bundle that was kept; nil if there is none.
func (s *SVIDStore) bundle() []byte {
	if s == nil {
		return nil
	}
	data, err := readPrivate(filepath.Join(s.dir, bundleFile))
	if err != nil {
		return nil
	}
	return data
}

func (s *SVIDStore) saveBundle(text []byte) error {
	if s == nil {
		return nil
	}
	return atomicfile.Write(filepath.Join(s.dir, bundleFile), text, 0o600)
}

func readPrivate(path string) ([]byte, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	if fi, err := os.Lstat(path); err != nil || fi.Size() > maxSVIDFile || !fi.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a file of at most %d bytes", path, maxSVIDFile))
	}
	return os.ReadFile(path)
}
