package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// movedSuffix is on the configuration of a single plugin in whose place a conflist is.
const movedSuffix = ".weft"

// maxConfiguration is the size in bytes of the largest configuration that is looked at.
const maxConfiguration = 1 << 20

// folder holds a node's network configurations.
type folder string

// configuration is a file of a folder.
type configuration struct {
	file string
	mode os.FileMode
	list *list
	err  error // why it is none
}

// all reads the configurations in the order in which runtimes choose: by name.
func (dir folder) all() ([]configuration, error) {
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		return nil, fmt.Errorf("network configurations: %w", err)
	}
	var out []configuration
	for _, e := range entries {
		if isConfiguration(e.Name()) && !e.IsDir() {
			out = append(out, read(filepath.Join(string(dir), e.Name())))
		}
	}
	return out, nil
}

func read(file string) configuration {
	c := configuration{file: file}
	info, err := os.Stat(file)
	if link, lerr := os.Readlink(file); err != nil && lerr == nil {
		c.err = fmt.Errorf("it is a link to %s, which the agent does not see", link)
		return c
	}
	if err != nil {
		c.err = err
		return c
	}
	if c.mode = info.Mode().Perm(); !info.Mode().IsRegular() || info.Size() > maxConfiguration {
		c.err = fmt.Errorf("it is no file of at most %d bytes", maxConfiguration)
		return c
	}
	text, err := os.ReadFile(file)
	if err != nil {
		c.err = err
		return c
	}
	c.list, c.err = parseConfiguration(file, text)
	return c
}

// first gives the configuration that runtimes use, and those before it that cannot be understood. It is nil if there is
// none.
func (dir folder) first() (first *configuration, bad []configuration, err error) {
	all, err := dir.all()
	if err != nil {
		return nil, nil, err
	}
	for i := range all {
		switch {
		case all[i].err == nil:
			return &all[i], bad, nil
		case !errors.Is(all[i].err, fs.ErrNotExist): // went between two looks
			bad = append(bad, all[i])
		}
	}
	return nil, bad, nil
}

// conflist is the name of the file that takes the place of c, and sorts where c does.
func (c *configuration) conflist() string {
	return strings.TrimSuffix(c.file, filepath.Ext(c.file)) + ".conflist"
}

// put writes c, as a conflist. A file of a single plugin is moved out of the runtimes' sight, for it sorts before.
func (c *configuration) put() error {
	text, err := c.list.text()
	if err != nil {
		return err
	}
	to := c.conflist()
	if err := atomicfile.WriteDurable(resolved(to), text, c.mode); err != nil {
		return err
	}
	if to == c.file {
		return nil
	}
	return os.Rename(c.file, c.file+movedSuffix)
}

// resolved follows a link, so that the file is replaced and not the link.
func resolved(file string) string {
	if to, err := filepath.EvalSymlinks(file); err == nil {
		return to
	}
	return file
}

// withdraw takes the plugin out of c, and puts back the file of a single plugin if there was one.
func (c *configuration) withdraw() error {
	if c.err != nil || !c.list.remove() {
		return nil
	}
	base := strings.TrimSuffix(c.file, filepath.Ext(c.file))
	for _, ext := range []string{".conf", ".json"} {
		if _, err := os.Stat(base + ext + movedSuffix); err == nil && len(c.list.plugins) == 1 {
			if err := os.Rename(base+ext+movedSuffix, base+ext); err != nil {
				return err
			}
			return os.Remove(c.file)
		}
	}
	if len(c.list.plugins) == 0 {
		return os.Remove(c.file)
	}
	return c.put()
}

// Uninstall takes the plugin out of all network configurations, then the binary. What cannot be done does not hold up
// the rest.
func Uninstall(confDir, binDir string) error {
	var errs []error
	all, err := folder(confDir).all()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for i := range all {
		if err := all[i].withdraw(); err != nil {
			errs = append(errs, fmt.Errorf("take %s out of %s: %w", Type, all[i].file, err))
		}
	}
	if len(errs) > 0 { // a configuration that names a binary that is not there lets no pod start
		return errors.Join(errs...)
	}
	if err := os.Remove(filepath.Join(binDir, Type)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
