package ca

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// SealName is the ConfigMap with the key by which the roots in the Secret are sealed.
	SealName = "weft-ca-seal"
	sealKey  = "key" // base64 of sealSize bytes
	sealSize = 32
	sealType = "WEFT SEALED ROOT" // of a PEM block
)

// seal holds the key by which the roots are sealed (AES-256-GCM, the entry's name as additional data). So
// neither who reads all Secrets nor who reads all ConfigMaps has the roots' keys.
type seal struct {
	api       configMaps
	namespace string
	key       []byte // nil until it was read
}

// fetch reads the key. Where there is none, it makes one if fresh, for nothing is sealed by it yet, or brings back the
// one that it had.
func (s *seal) fetch(ctx context.Context, fresh bool) error {
	for range attempts {
		m, err := s.api.Get(ctx, SealName, metav1.GetOptions{})
		if err == nil {
			key, err := base64.StdEncoding.DecodeString(m.Data[sealKey])
			if err != nil || len(key) != sealSize {
				return fmt.Errorf("ConfigMap %s: %q is not base64 of %d bytes; restore it from a backup", SealName, sealKey, sealSize)
			}
			s.key = key
			return nil
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		key := s.key
		switch {
		case key != nil:
		case fresh:
			key = make([]byte, sealSize)
			_, _ = rand.Read(key) // never fails
		default:
			return fmt.Errorf("ConfigMap %s is gone, without which the roots in Secret %s cannot be read; restore it from a backup, or delete the Secret while no controller runs to start a new CA", SealName, SecretName)
		}
		_, err = s.api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: SealName, Namespace: s.namespace, Labels: labels()},
			Data:       map[string]string{sealKey: base64.StdEncoding.EncodeToString(key)},
		}, metav1.CreateOptions{FieldManager: fieldManager})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return fmt.Errorf("ConfigMap %s comes and goes", SealName)
}

func (s *seal) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(s.key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// close seals an entry.
func (s *seal) close(name string, text []byte) ([]byte, error) {
	aead, err := s.aead()
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return pem.EncodeToMemory(&pem.Block{Type: sealType, Bytes: aead.Seal(nonce, nonce, text, []byte(name))}), nil
}

// sealed reports whether an entry is; one that an operator brought is not.
func sealed(text []byte) bool {
	block, _ := pem.Decode(text)
	return block != nil && block.Type == sealType
}

// open is the inverse of close. What is not sealed it gives as it is.
func (s *seal) open(name string, text []byte) ([]byte, error) {
	if !sealed(text) {
		return text, nil
	}
	aead, err := s.aead()
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if len(block.Bytes) < aead.NonceSize() {
		return nil, errors.New("it is cut off")
	}
	nonce, secret := block.Bytes[:aead.NonceSize()], block.Bytes[aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, secret, []byte(name))
	if err != nil {
		return nil, fmt.Errorf("it is not sealed by the key in ConfigMap %s", SealName)
	}
	return plain, nil
}
