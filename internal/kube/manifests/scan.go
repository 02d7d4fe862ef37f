package manifests

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
)

// scan is what a walk through the folder found.
type scan struct {
	files map[string]found
	// blocked are sub-folders that could not be listed, with the reason; what was below them is kept.
	blocked map[string]string
}

type found struct {
	sig  signature
	link bool
}

// walk lists the manifests below the folder. enter is called with every folder before it is listed.
func (f *Folder) walk(enter func(dir string)) (scan, error) {
	s := scan{files: map[string]found{}, blocked: map[string]string{}}
	return s, f.walkDir(&s, "", enter, 0)
}

// maxDepth bounds a folder tree.
const maxDepth = 64

func (f *Folder) walkDir(s *scan, rel string, enter func(string), depth int) error {
	full := filepath.Join(f.dir, rel)
	enter(full)
	entries, err := os.ReadDir(full)
	if err != nil {
		if rel == "" {
			return err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			s.blocked[rel] = "the folder cannot be read: " + reasonOf(err)
		}
		return nil
	}
	if depth > maxDepth {
		s.blocked[rel] = "the folder is nested too deeply"
		return nil
	}
	for _, e := range entries {
		path := filepath.Join(rel, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."):
		case e.IsDir():
			if err := f.walkDir(s, path, enter, depth+1); err != nil {
				return err
			}
		case e.Type()&fs.ModeSymlink != 0:
			f.walkLink(s, path)
		case manifestName(e.Name()):
			if info, err := e.Info(); err == nil {
				s.files[path] = found{sig: fileSignature(info)}
			}
		}
	}
	return nil
}

func (f *Folder) walkLink(s *scan, path string) {
	info, err := os.Stat(filepath.Join(f.dir, path))
	switch {
	case err == nil && info.IsDir():
		s.blocked[path] = "is a link to a folder; links to folders are not followed"
	case !manifestName(path):
	case err == nil:
		s.files[path] = found{sig: fileSignature(info), link: true}
	default:
		s.files[path] = found{link: true} // dangling: the read reports it
	}
}

func reasonOf(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// settleTime is how long a file whose content changed in place is left alone by a scan. The watch tells when its
// writer is done, so the scan is only there for files that give no events.
const settleTime = 2 * time.Second

// rescan compares the folder with what is known and takes what differs. It gives the time at which objects that went
// have to leave, and the time at which to scan again because of files whose writer may not be done, or zero for both.
// The first scan takes every file as it is.
func (f *Folder) rescan(enter func(dir string)) (leave, again time.Time, err error) {
	s, err := f.walk(enter)
	if err != nil {
		f.setOutside(&kube.Problem{File: ".", Reason: "the folder cannot be read: " + reasonOf(err) + "; all that was there stays in force"}, nil)
		return time.Time{}, time.Time{}, err
	}
	f.setOutside(nil, s.blocked)
	paths, again := f.changed(&s, time.Now())
	leave = f.take(f.readAll(paths))
	f.once.Do(func() { close(f.loaded) })
	return leave, again, nil
}

// changed lists the files to read, those that went among them.
func (f *Folder) changed(s *scan, now time.Time) (paths []string, again time.Time) {
	first := f.firstScan()
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, found := range s.files {
		x := f.files[path]
		if x != nil && x.sig == found.sig && x.link == found.link && found.sig != (signature{}) {
			continue
		}
		quiet := graceTime
		if x != nil && x.sig.ino == found.sig.ino {
			quiet = settleTime
		}
		if at := time.Unix(found.sig.mtime.Unix()).Add(quiet); !first && !found.link && now.Before(at) && at.Before(now.Add(2*settleTime)) {
			if again.IsZero() || at.Before(again) {
				again = at
			}
			continue
		}
		paths = append(paths, path)
	}
	for path, x := range f.files {
		if _, ok := s.files[path]; !ok && !s.isBlocked(path) && (x.sig != signature{} || x.trouble != "") {
			paths = append(paths, path)
		}
	}
	return paths, again
}

// UpToDate reports whether the tables hold what the files of the folder say now, and nothing else. It looks at each file.
func (f *Folder) UpToDate() bool {
	s, err := f.walk(func(string) {})
	if err != nil {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.leaving) > 0 {
		return false
	}
	for path, found := range s.files {
		x := f.files[path]
		if x == nil || x.link != found.link || x.sig != found.sig && (x.trouble == "" || x.sig != signature{}) {
			return false
		}
	}
	for path, x := range f.files {
		if _, ok := s.files[path]; !ok && !s.isBlocked(path) && (x.sig != signature{} || x.trouble != "") {
			return false
		}
	}
	return true
}

func (f *Folder) firstScan() bool {
	select {
	case <-f.loaded:
		return false
	default:
		return true
	}
}

func (s *scan) isBlocked(path string) bool {
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		if _, ok := s.blocked[dir]; ok {
			return true
		}
	}
	return false
}

// setOutside remembers problems that belong to no file.
func (f *Folder) setOutside(p *kube.Problem, blocked map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := f.outside != nil || len(f.blocked) > 0
	f.outside = p
	if p == nil {
		f.blocked = blocked
	}
	if had || p != nil || len(blocked) > 0 {
		f.report()
	}
}

// readAll reads files on all processors.
func (f *Folder) readAll(paths []string) []content {
	out := make([]content, len(paths))
	old := make([][]parsedChunk, len(paths))
	f.mu.Lock()
	for i, p := range paths {
		if x := f.files[p]; x != nil {
			old[i] = x.chunks
		}
	}
	f.mu.Unlock()
	inParallel(len(paths), func(i int) { out[i] = f.read(paths[i], old[i]) })
	return out
}

// inParallel calls f with the numbers below n, on all processors if there are many.
func inParallel(n int, f func(int)) {
	if n < 8 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}
