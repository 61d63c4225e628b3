# Installing and packaging. PREFIX and DESTDIR as usual; SYSCONFDIR, UNITDIR and the like can be set too.
SYSCONFDIR ?= /etc
BINDIR = $(DESTDIR)$(PREFIX)/bin
MANDIR = $(DESTDIR)$(PREFIX)/share/man
DOCDIR = $(DESTDIR)$(PREFIX)/share/doc/sluice
UNITDIR ?= $(PREFIX)/lib/systemd/system
LIBDIR_SYSTEMD ?= $(PREFIX)/lib
BASHDIR = $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/vendor-completions
FISHDIR = $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
INSTALL ?= install
REFERENCE := /usr/bin/python3 docs/reference.py

MANUALS := $(BUILD)/man/sluiced.8 $(BUILD)/man/sluicectl.1 $(BUILD)/man/sluice.yaml.5
SHELLS := $(BUILD)/completion/sluicectl.bash $(BUILD)/completion/sluicectl.zsh $(BUILD)/completion/sluicectl.fish

.PHONY: install man completion deb service-check
man: $(MANUALS) ## make the manual pages
completion: $(SHELLS) ## make the completions of bash, zsh and fish

$(BUILD)/completion/sluicectl.%: daemon/commands.def docs/reference.py
	@mkdir -p $(@D)
	$(REFERENCE) $* $< > $@.new && mv $@.new $@

# what stands between @ signs alone on a line is replaced by the part of that name
$(BUILD)/man/parts: docs/reference.py daemon/commands.def daemon/config.c daemon/config_stage.c $(BUILD)/sluicectl
	@mkdir -p $@
	$(REFERENCE) commands daemon/commands.def > $@/COMMANDS
	$(REFERENCE) options daemon/config.c > $@/SECTIONS
	$(REFERENCE) options daemon/config_stage.c > $@/COMMON
	$(BUILD)/sluicectl --json stages > $@/stages.json
	$(REFERENCE) stages < $@/stages.json > $@/STAGES
	@touch $@

$(BUILD)/man/%: docs/%.scd $(BUILD)/man/parts
	sed -e '/^@[A-Z]*@$$/{s/@//g;s|^|cat $(BUILD)/man/parts/|;e' -e '}' -e 's/@VERSION@/$(VERSION)/' $< | scdoc > $@.new
	@mv $@.new $@

# A unit names the binaries by their installed path.
define install-unit
sed -e 's|/usr/bin/|$(PREFIX)/bin/|; s|/usr/share/doc/|$(PREFIX)/share/doc/|; s|/etc/sluice|$(SYSCONFDIR)/sluice|' \
	systemd/$(1) > $(BUILD)/$(1)
$(INSTALL) -m 644 -D $(BUILD)/$(1) $(DESTDIR)$(UNITDIR)/$(1)

endef

install: all man completion ## install; as root, `systemd-sysusers` makes the user
	$(INSTALL) -m 755 -D $(BUILD)/sluiced $(BINDIR)/sluiced
	$(INSTALL) -m 755 -D $(BUILD)/sluicectl $(BINDIR)/sluicectl
	$(foreach u,sluiced.service sluiced@.service sluiced.socket,$(call install-unit,$(u)))
	$(INSTALL) -m 644 -D systemd/sluice.sysusers $(DESTDIR)$(LIBDIR_SYSTEMD)/sysusers.d/sluice.conf
	$(INSTALL) -m 644 -D systemd/sluice.tmpfiles $(DESTDIR)$(LIBDIR_SYSTEMD)/tmpfiles.d/sluice.conf
	$(INSTALL) -m 644 -D $(BUILD)/man/sluiced.8 $(MANDIR)/man8/sluiced.8
	$(INSTALL) -m 644 -D $(BUILD)/man/sluicectl.1 $(MANDIR)/man1/sluicectl.1
	$(INSTALL) -m 644 -D $(BUILD)/man/sluice.yaml.5 $(MANDIR)/man5/sluice.yaml.5
	$(INSTALL) -m 644 -D $(BUILD)/completion/sluicectl.bash $(BASHDIR)/sluicectl
	$(INSTALL) -m 644 -D $(BUILD)/completion/sluicectl.zsh $(DESTDIR)$(ZSHDIR)/_sluicectl
	$(INSTALL) -m 644 -D $(BUILD)/completion/sluicectl.fish $(FISHDIR)/sluicectl.fish
	$(INSTALL) -d $(DOCDIR)/examples $(DOCDIR)/systemd
	$(INSTALL) -m 644 etc/examples/*.yaml $(DOCDIR)/examples/
	$(INSTALL) -m 644 systemd/examples/*.conf $(DOCDIR)/systemd/
	test -e $(DESTDIR)$(SYSCONFDIR)/sluice/sluice.yaml || \
		$(INSTALL) -m 644 -D etc/sluice.yaml $(DESTDIR)$(SYSCONFDIR)/sluice/sluice.yaml

# The package is built from a copy, with debian/ where dpkg wants it.
DEB_TREE := $(BUILD)/deb/sluice-$(VERSION)
deb: ## build build/deb/sluice_VERSION_ARCH.deb
	rm -rf $(BUILD)/deb
	mkdir -p $(DEB_TREE)
	tar -c --exclude=./$(BUILD) --exclude=.git --exclude=__pycache__ . | tar -x -C $(DEB_TREE)
	cp -r systemd/debian $(DEB_TREE)/debian
	sed -i 's/@VERSION@/$(VERSION)/' $(DEB_TREE)/debian/changelog
	cd $(DEB_TREE) && env -u MAKEFLAGS -u MFLAGS dpkg-buildpackage --build=binary --no-sign --no-pre-clean
	@ls -l $(BUILD)/deb/*.deb

# The unit files: exposure at most 1.0, and nothing in them that systemd does not understand.
service-check: all ## check the unit files
	rm -rf $(BUILD)/units && mkdir -p $(BUILD)/units
	for u in sluiced.service sluiced.socket sluiced@.service; do \
		sed 's|/usr/bin/|$(abspath $(BUILD))/|' systemd/$$u > $(BUILD)/units/$$u; done
	cp $(BUILD)/units/sluiced@.service $(BUILD)/units/sluiced@one.service
	cd $(BUILD)/units && systemd-analyze verify --man=no ./sluiced.service ./sluiced.socket ./sluiced@one.service
	for u in sluiced.service sluiced@.service; do \
		systemd-analyze security --offline=yes --threshold=10 --no-pager systemd/$$u | tail -n 1; done
