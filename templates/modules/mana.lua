-- mana for Lmod. It finds the installation it lies in: name its directory with
-- "module use PREFIX/share/mana/templates/modules".
local root = myFileName():gsub("/share/mana/templates/modules/.*$", "")
whatis("transparent multi-level checkpointing for MPI programs")
prepend_path("PATH", pathJoin(root, "bin"))
prepend_path("MANPATH", pathJoin(root, "share/man"))
setenv("MANA_ROOT", root)
