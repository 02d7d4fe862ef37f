package mtls

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// maxRootFile bounds what is read as a root: certificate and key have about 1 KiB.
const maxRootFile = 64 << 10

// rootStore keeps roots as root-<number>.pem in a directory that only its owner can read.
type rootStore struct{ dir string }

func (s rootStore) path(number int) string {
	return filepath.Join(s.dir, fmt.Sprintf("root-%d.pem", number))
}

// prepare makes the directory, and refuses one that others can read.
func (s rootStore) prepare() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return private(s.dir)
}

// private refuses what others than the owner may use: a key that could be read is no key.
func private(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s may be used by others (mode %#o): its key may be known; chmod go= %s if it is not", path, fi.Mode().Perm(), path)
	}
	return nil
}

// load reads all roots, by number. One that cannot be read fails it all.
func (s rootStore) load(td string) ([]*Root, error) {
	names, err := filepath.Glob(filepath.Join(s.dir, "root-*.pem"))
	if err != nil {
		return nil, err
	}
	var out []*Root
	for _, name := range names {
		text := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), "root-"), ".pem")
		number, err := strconv.Atoi(text)
		if err != nil || s.path(number) != name || number < 1 {
			return nil, fmt.Errorf("%s is no root of this CA: %q is no number; move it away", name, text)
		}
		r, err := s.read(number, td)
		if err != nil {
			return nil, fmt.Errorf("%w; restore it from a backup, or, to start a new CA that nobody trusts yet, remove %s", err, s.dir)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *Root) int { return a.Number - b.Number })
	return out, nil
}

func (s rootStore) read(number int, td string) (*Root, error) {
	path := s.path(number)
	if err := private(path); err != nil {
		return nil, err
	}
	if fi, err := os.Stat(path); err != nil || fi.Size() > maxRootFile || !fi.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a file of at most %d bytes", path, maxRootFile))
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := ParseRoot(number, td, data)
	if err != nil {
		return nil, fmt.Errorf("%s is not a root of this CA: %w", path, err)
	}
	return r, nil
}

// add stores a root, whole or not at all, on the disk when it returns. A root of that number stays as it is.
func (s rootStore) add(r *Root) error {
	data, err := r.Marshal()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(s.dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // a leftover is harmless: it was never trusted
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link does not replace what another process stored meanwhile.
	if err := os.Link(tmp.Name(), s.path(r.Number)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
