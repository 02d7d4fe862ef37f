package manifests

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weft-mesh/weft/internal/kube"
)

// FolderOptions are the choices of NewFolder; the zero value is good.
type FolderOptions struct {
	// Log defaults to slog.Default.
	Log *slog.Logger
	// MaxFile is how many bytes a file may have; 0 is the constant MaxFile.
	MaxFile int64
}

// MaxFile is how many bytes a file may have if nothing else is said: ten times what an API server takes for one object.
const MaxFile = 16 << 20

// Folder keeps the object tables equal to the manifests below a folder: *.yaml, *.yml and *.json, in sub-folders too,
// without those whose name begins with a dot.
//
// What is read:
//   - Each document counts for itself. A bad one is a Problem, and the last good version of its object is kept. While a
//     file holds a document that cannot be distinguished from a missing one (broken syntax, no name), nothing of it is
//     withdrawn.
//   - Of an object that several files hold, the first file by path counts; the others are Problems until it goes.
//   - New and changed objects are taken at once when their file was closed by who wrote it or moved into place;
//     objects that went are withdrawn graceTime later, so that an editor that moves a file away and writes it anew, or
//     an object that moves from file to file, is never gone in between.
//   - A folder that vanishes withdraws nothing; its files are looked at again when it is back.
//
// generation counts the changes of an object's spec since the start, uid is made from its name, and creationTimestamp
// is empty, so that precedence never depends on when a file was read.
type Folder struct {
	dir     string
	log     *slog.Logger
	opts    FolderOptions
	objs    *kube.Objects
	decoder *decoder
	loaded  chan struct{}
	once    sync.Once
	// onTarget is called with the folder that a link leads to, before the link is read.
	onTarget func(dir string)

	mu    sync.Mutex
	files map[string]*file // by path below dir
	// claims lists the files that hold an object, sorted; contested are the objects that more than one file holds.
	claims    map[objectKey][]string
	contested map[objectKey]struct{}
	installed map[objectKey]installed
	// leaving are the files with objects that leave at a time; troubled are those with problems.
	leaving  map[string]time.Time
	troubled map[string]struct{}
	// outside is the problem of the folder itself; blocked are those of its sub-folders.
	outside  *kube.Problem
	blocked  map[string]string
	reported map[kube.Problem]struct{}
}

// objectKey names an object of any kind: Kind.group/namespace/name.
type objectKey string

// installed is what stands in a table for an object.
type installed struct {
	doc        *document
	obj        runtime.Object
	generation int64
}

// NewFolder makes a reader of a folder. Nothing is read yet.
func NewFolder(dir string, objs *kube.Objects, opts FolderOptions) *Folder {
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.MaxFile == 0 {
		opts.MaxFile = MaxFile
	}
	return &Folder{
		dir: filepath.Clean(dir), log: opts.Log, opts: opts, objs: objs, decoder: newDecoder(objs),
		loaded: make(chan struct{}), onTarget: func(string) {}, files: map[string]*file{}, claims: map[objectKey][]string{},
		contested: map[objectKey]struct{}{}, installed: map[objectKey]installed{},
		leaving: map[string]time.Time{}, troubled: map[string]struct{}{}, reported: map[kube.Problem]struct{}{},
	}
}

// Load reads the folder once. It fails when there is no such folder; bad files are Problems.
func (f *Folder) Load() error {
	info, err := os.Stat(f.dir)
	if err != nil {
		return fmt.Errorf("open the folder of manifests: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("open the folder of manifests: %s is not a folder", f.dir)
	}
	if _, _, err := f.rescan(func(string) {}); err != nil {
		return fmt.Errorf("open the folder of manifests: %w", err)
	}
	return nil
}

// Loaded is closed when the folder was read for the first time.
func (f *Folder) Loaded() <-chan struct{} { return f.loaded }

// Run follows changes until the context ends, and then gives nil. It reads the folder first if Load did not.
func (f *Folder) Run(ctx context.Context) error {
	w := newWatch(f.log)
	defer w.close()
	return newRunner(f, w).run(ctx)
}
