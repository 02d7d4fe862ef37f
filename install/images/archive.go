package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/weft-mesh/weft/internal/atomicfile"
)

// archive is an image of one architecture.
type archive struct {
	name, arch string
	user       string
	layers     [][]file
}

// write writes the archives that are not as they should be, and says which.
func (o options) write(archives []archive) error {
	images := map[string][]v1.Image{} // by name, an image an architecture
	for _, a := range archives {
		img, err := o.image(a)
		if err != nil {
			return fmt.Errorf("image %s, %s: %w", a.name, a.arch, err)
		}
		images[a.name] = append(images[a.name], img)
		tag, err := o.reference(a.name)
		if err != nil {
			return err
		}
		err = o.unlessWritten(a.name+"-"+a.arch+".tar", img, tag, func(path string) error { return tarball.WriteToFile(path, tag, img) })
		if err != nil {
			return err
		}
	}
	if len(o.arches) < 2 {
		return nil
	}
	for _, n := range []string{"weft", "weft-controller"} {
		if err := o.writeIndex(n, images[n]); err != nil {
			return fmt.Errorf("image %s: %w", n, err)
		}
	}
	return nil
}

func (o options) reference(image string) (name.Tag, error) {
	return name.NewTag(o.repository+"/"+image+":"+o.tag, name.StrictValidation)
}

// unlessWritten writes an archive if the one that is there is not of this content. A file beside it tells.
func (o options) unlessWritten(archive string, content interface{ Digest() (v1.Hash, error) }, tag name.Tag, write func(path string) error) error {
	digest, err := content.Digest()
	if err != nil {
		return err
	}
	path, key := filepath.Join(o.out, archive), filepath.Join(o.cache, archive+".is")
	is := tag.String() + "@" + digest.String() + "\n"
	if have, err := os.ReadFile(key); err == nil && string(have) == is {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
	}
	_ = os.Remove(key)
	if err := write(path + ".new"); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	fmt.Printf("%s: %s", path, is)
	return os.WriteFile(key, []byte(is), 0o644)
}

func (o options) image(a archive) (v1.Image, error) {
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, files := range a.layers {
		layer, err := o.layer(files)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.History = "linux", a.arch, nil
	config.Config = v1.Config{
		Entrypoint: []string{"/usr/bin/weft"}, Env: []string{"PATH=/usr/bin"}, WorkingDir: "/", User: a.user,
		Labels: map[string]string{
			"org.opencontainers.image.title": a.name, "org.opencontainers.image.version": o.tag,
			"org.opencontainers.image.source": "https://github.com/weft-mesh/weft", "org.opencontainers.image.licenses": "Apache-2.0",
		},
	}
	return mutate.ConfigFile(img, config)
}

// layer gives a compressed layer, from the cache if one of these files is there.
func (o options) layer(files []file) (v1.Layer, error) {
	sum := sha256.New()
	if err := writeTar(sum, files); err != nil {
		return nil, err
	}
	path := filepath.Join(o.cache, fmt.Sprintf("layer-%x.tar.gz", sum.Sum(nil)[:12]))
	now := time.Now()
	if os.Chtimes(path, now, now) != nil { // prune keeps what was used
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			r, w := io.Pipe()
			go func() { w.CloseWithError(writeTar(w, files)) }()
			return r, nil
		})
		if err != nil {
			return nil, err
		}
		packed, err := layer.Compressed()
		if err != nil {
			return nil, err
		}
		defer packed.Close()
		err = atomicfile.Fill(path, 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, packed)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
}

// prune removes the layers that were not used for a day.
func (o options) prune() error {
	layers, err := filepath.Glob(filepath.Join(o.cache, "layer-*"))
	if err != nil {
		return err
	}
	for _, l := range layers {
		if info, err := os.Stat(l); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			err = os.Remove(l)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// writeIndex writes an OCI archive of all architectures. ctr takes the image's name from the first annotation, others
// from the second.
func (o options) writeIndex(image string, images []v1.Image) error {
	tag, err := o.reference(image)
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for i, img := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: o.arches[i]},
		}})
	}
	outer := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index, Descriptor: v1.Descriptor{
		Annotations: map[string]string{"io.containerd.image.name": tag.String(), "org.opencontainers.image.ref.name": o.tag},
	}})
	return o.unlessWritten(image+".tar", outer, tag, func(path string) error {
		dir, err := os.MkdirTemp(o.cache, "layout-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if _, err := layout.Write(dir, outer); err != nil {
			return err
		}
		return tarFolder(dir, path)
	})
}

// tarFolder writes the files of a folder, by name.
func tarFolder(dir, path string) error {
	var files []file
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, file{path: strings.TrimPrefix(p, dir+"/"), source: p, mode: 0o644})
		}
		return err
	})
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(writeTar(f, files), f.Close())
}
