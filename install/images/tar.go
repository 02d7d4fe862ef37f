package main

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// file is an entry of a tar archive: content, or the file source, or a symbolic link.
type file struct {
	path    string // without a leading slash
	content []byte
	source  string
	link    string
	mode    int64
}

// writeTar writes files by name, with the folders above them, all root's and of no time.
func writeTar(w io.Writer, files []file) error {
	t := tar.NewWriter(w)
	made := map[string]bool{".": true}
	for _, f := range byPath(files) {
		if err := makeFolders(t, made, filepath.Dir(f.path)); err != nil {
			return err
		}
		if err := f.write(t); err != nil {
			return fmt.Errorf("%s: %w", f.path, err)
		}
	}
	return t.Close()
}

func byPath(files []file) []file {
	return slices.SortedFunc(slices.Values(files), func(a, b file) int { return strings.Compare(a.path, b.path) })
}

func makeFolders(t *tar.Writer, made map[string]bool, dir string) error {
	if made[dir] {
		return nil
	}
	if err := makeFolders(t, made, filepath.Dir(dir)); err != nil {
		return err
	}
	made[dir] = true
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

func (f file) write(t *tar.Writer) error {
	if f.link != "" {
		return t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: f.path, Linkname: f.link, Mode: 0o777})
	}
	if f.source == "" {
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return err
		}
		_, err := t.Write(f.content)
		return err
	}
	in, err := os.Open(f.source)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(t, in)
	return err
}
