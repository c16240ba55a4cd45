# HEADER: the commit that SOURCE stands at, for bench.c; left alone when it says so already.
cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
file(CONFIGURE OUTPUT ${HEADER} CONTENT "#define CALORIS_COMMIT \"@commit@\"\n" @ONLY)
